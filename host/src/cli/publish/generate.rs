//! Events as real producers send them: the whole life of made-up evaluations.
//!
//! Code of some 500 bytes, output of some 2 KB; of twenty evaluations about seventeen complete, two fail, one is
//! cancelled. The same seed makes the same evaluations.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// One event to publish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) channel: &'static str,
    pub(crate) payload: String,
}

/// Makes evaluations, one after another.
pub(crate) struct Generator {
    random: fastrand::Rng,
    now: Timestamp,
}

impl Generator {
    /// The first evaluation is submitted at `now`, each further one a little later.
    pub(crate) fn new(seed: u64, now: Timestamp) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), now }
    }

    /// The events of the next evaluation, in the order in which they happen.
    pub(crate) fn lifecycle(&mut self) -> Vec<Event> {
        self.now += SignedDuration::from_millis(self.random.i64(1..40));
        let id = format!("{}_{:08x}", self.now.strftime("%Y%m%d_%H%M%S"), self.random.u32(..));
        let code = self.code();
        let started = self.now + SignedDuration::from_millis(self.random.i64(80..900));
        let ended = started + SignedDuration::from_millis(self.random.i64(40..30_000));
        let job = format!("{}-{:08x}", id.replace('_', "-"), self.random.u32(..));
        let metadata = json!({ "submitted_at": time(self.now), "timeout": 30, "priority": self.random.u8(0..3) });
        let request =
            json!({ "eval_id": id, "code": code, "language": "python", "engine": "docker", "metadata": metadata });
        let running = json!({
            "eval_id": id, "executor_id": job, "container_id": job, "timeout": 300, "started_at": time(started),
        });
        let (channel, end) = self.end(&id, &job, ended);
        vec![
            event("evaluation:submitted", &request),
            event("evaluation:queued", &request),
            event("evaluation:running", &running),
            event(channel, &end),
        ]
    }

    fn end(&mut self, id: &str, job: &str, at: Timestamp) -> (&'static str, Value) {
        match self.random.u8(0..20) {
            0 => (
                "evaluation:cancelled",
                json!({ "eval_id": id, "job_name": job, "cancelled_at": time(at), "reason": "Job deleted via API" }),
            ),
            1 | 2 => {
                let error = format!(
                    "{}Traceback (most recent call last):\nZeroDivisionError: division by zero\n",
                    self.output(6)
                );
                let metadata = json!({ "job_name": job, "failed_at": time(at), "log_source": "kubernetes" });
                ("evaluation:failed", json!({ "eval_id": id, "error": error, "exit_code": 1, "metadata": metadata }))
            }
            _ => {
                let metadata = json!({ "job_name": job, "completed_at": time(at), "log_source": "kubernetes" });
                let output = self.output(44);
                (
                    "evaluation:completed",
                    json!({ "eval_id": id, "output": output, "exit_code": 0, "metadata": metadata }),
                )
            }
        }
    }

    fn code(&mut self) -> String {
        let (samples, bound) = (self.random.u32(20..200), self.random.u32(2..50));
        let mut code = format!("import random\n\nrandom.seed({samples})\n\n");
        for name in ["parse", "solve", "report", "verify"] {
            let (a, b) = (self.random.u16(..), self.random.u16(1..));
            write!(code, "def {name}(value):\n    result = (value * {a} + {b}) % {bound}\n    return result if result > 1 else value\n\n")
                .expect("writing to a string does not fail");
        }
        code + &format!("for step in range({samples}):\n    print(step, report(solve(parse(step))))\n")
    }

    fn output(&mut self, lines: usize) -> String {
        let line =
            |step: usize| format!("step {step:>4}: loss {:.6}  accuracy {:.4}\n", self.random.f64(), self.random.f64());
        (0..lines).map(line).collect()
    }
}

fn event(channel: &'static str, payload: &Value) -> Event {
    Event { channel, payload: payload.to_string() }
}

fn time(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_evaluations() {
        let make = |seed| Generator::new(seed, Timestamp::UNIX_EPOCH).lifecycle();

        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
    }

    #[test]
    fn evaluations_are_of_a_realistic_size_and_end() {
        let mut generator = Generator::new(1, Timestamp::UNIX_EPOCH);
        let lifecycles: Vec<_> = (0..200).map(|_| generator.lifecycle()).collect();

        let field = |event: &Event, name: &str| {
            let payload: Value = serde_json::from_str(&event.payload).expect("JSON");
            payload[name].as_str().map(str::to_owned)
        };
        let code = field(&lifecycles[0][1], "code").expect("queued has code").len();
        assert!((400..700).contains(&code), "{code} bytes of code");
        let ended = |channel: &str| lifecycles.iter().filter(|events| events[3].channel == channel).count();
        let (completed, failed, cancelled) =
            (ended("evaluation:completed"), ended("evaluation:failed"), ended("evaluation:cancelled"));
        assert_eq!(completed + failed + cancelled, 200);
        assert!(completed > 150 && failed > 5 && cancelled > 1, "{completed} {failed} {cancelled}");
        let output = lifecycles.iter().find_map(|events| field(&events[3], "output")).expect("some complete").len();
        assert!((1500..2500).contains(&output), "{output} bytes of output");
    }
}
