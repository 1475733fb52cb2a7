//! What the producers of evaluation events send: the API, the dispatcher, the storage service, operators, and the
//! executor of older installations. One function for each of their messages.

use serde_json::{Value, json};

use crate::second_model::time_text;

/// A message: channel and payload.
pub type Message = (&'static str, Value);

/// One evaluation while its life is told: its id, and a clock that goes on with every message.
#[derive(Debug)]
pub struct Life {
    id: String,
    now: i64,
}

const CODES: [&str; 4] = ["print(42)", "import sys\r\nsys.exit(1)\n", "print('größe 数 🦀')\n\n", "while True: pass"];
const OUTPUTS: [&str; 4] = ["42\n", "", "größe 数 🦀\u{0}\u{7}", "[stdout is not available]\r\nline 2"];
const ERRORS: [&str; 3] = ["Traceback (most recent call last):\n  boom", "", "Evaluation timed out after 30 seconds"];

impl Life {
    /// A life that begins at a time, in microseconds.
    #[must_use]
    pub fn new(id: &str, start: i64) -> Self {
        Self { id: id.to_owned(), now: start }
    }

    /// A whole life, from the first message to an end that is told once or twice, or to none at all.
    /// With each message comes the time at which it is sent, in microseconds.
    pub fn tell(&mut self, random: &mut fastrand::Rng) -> Vec<(i64, Message)> {
        let mut steps: Vec<fn(&mut Self, &mut fastrand::Rng) -> Message> = Vec::with_capacity(6);
        if random.bool() {
            steps.push(if random.bool() { Self::submitted } else { Self::submitted_in_batch });
        }
        steps.push(Self::queued);
        if random.u8(..8) == 0 {
            steps.push(Self::queued);
        }
        match random.u8(..4) {
            0 => {}
            1 => steps.push(|life, _| life.running_by_storage_service()),
            _ => steps.push(|life, _| life.running_by_dispatcher()),
        }
        for _ in 0..if random.u8(..6) == 0 { 2 } else { 1 } {
            // One number more than there are ends stands for a life that goes on.
            steps.extend(Self::ENDS.get(random.usize(..=Self::ENDS.len())));
        }
        let tell = |step: fn(&mut Self, &mut fastrand::Rng) -> Message| {
            let message = step(self, random);
            (self.now, message)
        };
        steps.into_iter().map(tell).collect()
    }

    /// Every message that a producer sends, each once, by a name for tests to report.
    pub fn every_variant(&mut self, random: &mut fastrand::Rng) -> Vec<(&'static str, Message)> {
        vec![
            ("submitted by the API", self.submitted(random)),
            ("submitted in a batch", self.submitted_in_batch(random)),
            ("queued by the API", self.queued(random)),
            ("running by the dispatcher", self.running_by_dispatcher()),
            ("running by the storage service", self.running_by_storage_service()),
            ("completed by the dispatcher", self.completed_by_dispatcher(random)),
            ("completed by an operator", self.completed_by_operator(random)),
            ("completed by the old executor", self.completed_by_executor(random)),
            ("failed by the dispatcher", self.failed_by_dispatcher(random)),
            ("failed submission", self.failed_submission(random)),
            ("failed by a plain error", self.failed_by_error(random)),
            ("failed by an operator", self.failed_by_operator(random)),
            ("failed by a timeout", self.timed_out(random)),
            ("cancelled by the dispatcher", self.cancelled_by_dispatcher(random)),
            ("cancelled by an operator", self.cancelled_by_operator(random)),
        ]
    }

    const ENDS: [fn(&mut Self, &mut fastrand::Rng) -> Message; 11] = [
        Self::completed_by_dispatcher,
        Self::completed_by_dispatcher,
        Self::completed_by_operator,
        Self::completed_by_executor,
        Self::failed_by_dispatcher,
        Self::failed_submission,
        Self::failed_by_error,
        Self::failed_by_operator,
        Self::timed_out,
        Self::cancelled_by_dispatcher,
        Self::cancelled_by_operator,
    ];

    /// POST /api/eval.
    pub fn submitted(&mut self, random: &mut fastrand::Rng) -> Message {
        let metadata =
            json!({"submitted_at": self.tick(), "timeout": random.u32(1..=300), "priority": random.u32(..10)});
        self.with_code("evaluation:submitted", pick(random, &CODES), metadata)
    }

    /// POST /api/eval-batch.
    pub fn submitted_in_batch(&mut self, random: &mut fastrand::Rng) -> Message {
        let metadata = json!({"submitted_at": self.tick(), "timeout": 30, "priority": 0, "batch": true});
        self.with_code("evaluation:submitted", pick(random, &CODES), metadata)
    }

    /// Right before the evaluation is handed to the queue; repeated with every attempt of a batch.
    pub fn queued(&mut self, random: &mut fastrand::Rng) -> Message {
        let metadata = json!({"submitted_at": self.tick(), "timeout": random.u32(1..=300)});
        self.with_code("evaluation:queued", pick(random, &CODES), metadata)
    }

    /// The dispatcher saw the job run.
    pub fn running_by_dispatcher(&mut self) -> Message {
        let (job, at) = (self.job_name(), self.tick());
        let payload =
            json!({"eval_id": self.id, "executor_id": job, "container_id": job, "timeout": 300, "started_at": at});
        ("evaluation:running", payload)
    }

    /// The storage service was told so by a PUT; it sends no time.
    pub fn running_by_storage_service(&mut self) -> Message {
        self.tick();
        let job = self.job_name();
        ("evaluation:running", json!({"eval_id": self.id, "executor_id": job, "container_id": job, "timeout": 30}))
    }

    /// The dispatcher saw the job succeed.
    pub fn completed_by_dispatcher(&mut self, random: &mut fastrand::Rng) -> Message {
        let source = pick(random, &["kubernetes", "loki", "not_available"]);
        let metadata = json!({"job_name": self.job_name(), "completed_at": self.tick(), "log_source": source});
        let output = pick(random, &OUTPUTS);
        ("evaluation:completed", json!({"eval_id": self.id, "output": output, "exit_code": 0, "metadata": metadata}))
    }

    /// PATCH /api/eval/{id}/status?status=completed.
    pub fn completed_by_operator(&mut self, random: &mut fastrand::Rng) -> Message {
        ("evaluation:completed", self.by_operator("completed", random))
    }

    /// The executor of older installations; its status may contradict the channel.
    pub fn completed_by_executor(&mut self, random: &mut fastrand::Rng) -> Message {
        let mut payload = json!({
            "eval_id": self.id, "status": pick(random, &["completed", "failed", "timeout"]),
            "output": pick(random, &OUTPUTS), "error": pick(random, &ERRORS), "exit_code": random.i32(-1..=1),
            "executor_id": "executor-1", "completed_at": self.tick(),
        });
        if random.bool() {
            payload["runtime_ms"] = random.u32(..5000).into();
            payload["memory_used_mb"] = random.u32(..512).into();
        }
        ("evaluation:completed", payload)
    }

    /// The dispatcher saw the job fail; what it printed comes as the error.
    pub fn failed_by_dispatcher(&mut self, random: &mut fastrand::Rng) -> Message {
        let source = pick(random, &["kubernetes", "loki", "unknown"]);
        let metadata = json!({"job_name": self.job_name(), "failed_at": self.tick(), "log_source": source});
        let error = pick(random, &ERRORS);
        ("evaluation:failed", json!({"eval_id": self.id, "error": error, "exit_code": 1, "metadata": metadata}))
    }

    /// The queue did not take it; `failed_at` says where, not when.
    pub fn failed_submission(&mut self, random: &mut fastrand::Rng) -> Message {
        self.tick();
        let step = pick(random, &["submission", "batch_submission"]);
        ("evaluation:failed", json!({"eval_id": self.id, "error": "queue is away", "failed_at": step}))
    }

    /// The API could not reach another service.
    pub fn failed_by_error(&mut self, random: &mut fastrand::Rng) -> Message {
        self.tick();
        ("evaluation:failed", json!({"eval_id": self.id, "error": pick(random, &ERRORS)}))
    }

    /// PATCH /api/eval/{id}/status?status=failed.
    pub fn failed_by_operator(&mut self, random: &mut fastrand::Rng) -> Message {
        ("evaluation:failed", self.by_operator("failed", random))
    }

    /// There is no channel for timeouts: it failed, and its metadata say why.
    pub fn timed_out(&mut self, random: &mut fastrand::Rng) -> Message {
        self.tick();
        let error = pick(random, &ERRORS);
        let metadata = json!({"reason": "timeout"});
        ("evaluation:failed", json!({"eval_id": self.id, "error": error, "exit_code": -1, "metadata": metadata}))
    }

    /// The job was deleted, by somebody or through the API.
    pub fn cancelled_by_dispatcher(&mut self, random: &mut fastrand::Rng) -> Message {
        let (job, at, reason) = (self.job_name(), self.tick(), pick(random, &["Job deleted", "Job deleted via API"]));
        ("evaluation:cancelled", json!({"eval_id": self.id, "job_name": job, "cancelled_at": at, "reason": reason}))
    }

    /// PATCH /api/eval/{id}/status?status=cancelled.
    pub fn cancelled_by_operator(&mut self, random: &mut fastrand::Rng) -> Message {
        ("evaluation:cancelled", self.by_operator("cancelled", random))
    }

    fn by_operator(&mut self, status: &str, random: &mut fastrand::Rng) -> Value {
        self.tick();
        let reason = if random.bool() { Value::Null } else { "cleaning up".into() };
        json!({"eval_id": self.id, "status": status, "manual_update": true, "reason": reason})
    }

    fn with_code(&self, channel: &'static str, code: &str, metadata: Value) -> Message {
        let payload =
            json!({"eval_id": self.id, "code": code, "language": "python", "engine": "docker", "metadata": metadata});
        (channel, payload)
    }

    fn job_name(&self) -> String {
        let name: String = self.id.chars().take(20).collect();
        format!("{}-0a1b2c3d", name.to_lowercase().replace('_', "-"))
    }

    /// Goes on by 1.000001 s and says what time it is, as Python writes it: with or without a zone.
    fn tick(&mut self) -> String {
        self.now += 1_000_001;
        let text = time_text(self.now);
        if self.now % 2 == 0 { text.trim_end_matches("+00:00").to_owned() } else { text }
    }
}

fn pick<'a>(random: &mut fastrand::Rng, choices: &[&'a str]) -> &'a str {
    choices[random.usize(..choices.len())]
}
