//! The events that are measured with: as the API and the dispatcher send them, code of 500 B, output of 2 KB.
//!
//! An event follows from its number, and its number from the evaluation of its confirmation, so nothing has to be kept.

use std::fmt::Write;
use std::sync::LazyLock;

/// The channels that the events are published on.
pub(crate) const CHANNELS: [&str; 3] = ["evaluation:queued", "evaluation:running", "evaluation:completed"];

/// The stream that the events are added to.
pub(crate) const STREAM: &str = "evaluation:events";

/// How events come to the measured side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// Published on channels.
    PubSub,
    /// Added to a stream.
    Stream,
}

/// So many evaluations take their steps together: all are queued, then all run, then all complete.
const INTERLEAVED: u64 = 1000;

/// What an id of an evaluation begins with; its number follows, as eight hex digits.
pub(crate) const ID_PREFIX: &str = "20250101_120000_";

/// Which events come one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Every event queues an evaluation of its own.
    New,
    /// Evaluations are queued, run and complete, interleaved.
    Lifecycles,
    /// In turn a stored evaluation completes and a new one is queued.
    OnTopOf {
        /// The first that completes.
        offset: u64,
        /// From one that completes to the next.
        stride: u64,
        /// The first new one, behind all that are stored.
        fresh: u64,
    },
}

/// A sequence of events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// Which.
    pub(crate) kind: Kind,
    /// The number of the first evaluation, so that sequences need not meet.
    pub(crate) first: u64,
}

impl Traffic {
    /// Writes the command that hands on an event. `payload` is room to work in.
    pub(crate) fn push_command(&self, feed: Feed, number: u64, payload: &mut String, commands: &mut Vec<u8>) {
        let channel = self.write_payload(number, payload);
        let before = match feed {
            Feed::PubSub => format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n", channel.len()),
            // Trimmed far behind what may be under way, so that the memory of Redis stays as it is.
            Feed::Stream => format!(
                "*10\r\n$4\r\nXADD\r\n${}\r\n{STREAM}\r\n$6\r\nMAXLEN\r\n$1\r\n~\r\n$5\r\n20000\r\n$1\r\n*\r\n\
                 $7\r\nchannel\r\n${}\r\n{channel}\r\n$4\r\ndata\r\n",
                STREAM.len(),
                channel.len()
            ),
        };
        commands.extend_from_slice(before.as_bytes());
        commands.extend_from_slice(format!("${}\r\n", payload.len()).as_bytes());
        commands.extend_from_slice(payload.as_bytes());
        commands.extend_from_slice(b"\r\n");
    }

    /// Writes the payload of an event in place of what is there, and gives its channel.
    pub(crate) fn write_payload(&self, number: u64, payload: &mut String) -> &'static str {
        let (evaluation, step) = match self.kind {
            Kind::New => (number, 0),
            Kind::Lifecycles => {
                let within = number % (3 * INTERLEAVED);
                (number / (3 * INTERLEAVED) * INTERLEAVED + within % INTERLEAVED, within / INTERLEAVED)
            }
            Kind::OnTopOf { offset, stride, .. } if number.is_multiple_of(2) => (offset + number / 2 * stride, 2),
            Kind::OnTopOf { fresh, .. } => (fresh + number / 2, 0),
        };
        let id = self.first + evaluation;
        payload.clear();
        let written = match step {
            0 => write!(
                payload,
                "{{\"eval_id\": \"{ID_PREFIX}{id:08x}\", \"code\": \"{}\", \"language\": \"python\", \
                 \"engine\": \"docker\", \"timeout\": 300, \"priority\": 0, \"metadata\": {{\"submitted_at\": \"{}\", \
                 \"timeout\": 300}}}}",
                *CODE,
                Time { id, step }
            ),
            1 => write!(
                payload,
                "{{\"eval_id\": \"{ID_PREFIX}{id:08x}\", \"executor_id\": \"eval-{id:08x}-0a1b2c3d\", \
                 \"container_id\": \"eval-{id:08x}-0a1b2c3d\", \"timeout\": 300, \"started_at\": \"{}\"}}",
                Time { id, step }
            ),
            _ => write!(
                payload,
                "{{\"eval_id\": \"{ID_PREFIX}{id:08x}\", \"output\": \"{}\", \"exit_code\": 0, \
                 \"metadata\": {{\"job_name\": \"eval-{id:08x}-0a1b2c3d\", \"completed_at\": \"{}\", \
                 \"log_source\": \"kubernetes\"}}}}",
                *OUTPUT,
                Time { id, step }
            ),
        };
        written.expect("writing to a string does not fail");
        CHANNELS[step as usize]
    }

    /// The number of the event that the confirmation is about which is the n-th of an evaluation, counted from 0.
    ///
    /// The events of an evaluation are confirmed in the order in which they were published.
    pub(crate) fn number_of(&self, id: u64, nth: u64) -> Option<u64> {
        let evaluation = id.checked_sub(self.first)?;
        Some(match self.kind {
            Kind::New => evaluation,
            Kind::Lifecycles => {
                evaluation / INTERLEAVED * 3 * INTERLEAVED + nth * INTERLEAVED + evaluation % INTERLEAVED
            }
            Kind::OnTopOf { offset, stride, fresh } if evaluation < fresh => (evaluation - offset) / stride * 2,
            Kind::OnTopOf { fresh, .. } => (evaluation - fresh) * 2 + 1,
        })
    }

    /// The numbers of the evaluations that so many events are about are below this, counted from the first.
    pub(crate) fn evaluations(&self, events: u64) -> u64 {
        match self.kind {
            Kind::New => events,
            Kind::Lifecycles => events.div_ceil(3 * INTERLEAVED) * INTERLEAVED,
            Kind::OnTopOf { fresh, .. } => fresh + events.div_ceil(2),
        }
    }
}

/// A number of events that ends with full lives.
pub(crate) fn whole_lives(events: u64) -> u64 {
    events.next_multiple_of(3 * INTERLEAVED)
}

/// The time of a step of an evaluation, as Python writes it.
struct Time {
    id: u64,
    step: u64,
}

impl std::fmt::Display for Time {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, micros) = (self.id / 1000 % 86_400, self.id % 1000 * 1000 + self.step);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(formatter, "2025-01-{:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00", 1 + self.step)
    }
}

/// A program of 500 characters, as JSON.
pub(crate) static CODE: LazyLock<String> = LazyLock::new(|| {
    let lines = [
        "import json\nimport statistics\nimport sys\n\n\n",
        "def summarize(values):\n    \"\"\"Mean and deviation of the values, rounded.\"\"\"\n",
        "    if not values:\n        return {\"count\": 0}\n",
        "    return {\n        \"count\": len(values),\n        \"mean\": round(statistics.mean(values), 3),\n",
        "        \"deviation\": round(statistics.pstdev(values), 3),\n    }\n\n\n",
        "values = [float(line) for line in sys.stdin if line.strip()]\n",
        "print(json.dumps(summarize(values), indent=2))\nsys.exit(0 if values else 1)\n",
    ];
    escaped(&lines.concat())
});

/// What a program printed, 2 KB, as JSON.
pub(crate) static OUTPUT: LazyLock<String> = LazyLock::new(|| {
    let line =
        |epoch| format!("epoch {epoch:>2}/40: loss 0.{:04} accuracy 0.{:04}\n", 9000 - epoch * 201, 5000 + epoch * 97);
    escaped(&(1..=48).map(line).collect::<String>())
});

/// A text as JSON, without the quotes around it.
fn escaped(text: &str) -> String {
    serde_json::Value::from(text).to_string().trim_matches('"').to_owned()
}
