//! What to measure, and how thoroughly.

/// The rows, in the order in which they are measured.
pub(crate) const ROWS: [(&str, &str); 15] = [
    ("memory", "pub/sub to memory against the bare loop, a new evaluation per event and lifecycles"),
    ("streams", "streams to memory against the bare loop that reads a group and acknowledges, likewise"),
    ("file", "pub/sub to file against the bare loop that writes files, likewise"),
    (
        "streams-file",
        "streams to file against the bare loop that reads a group, writes files and acknowledges, likewise",
    ),
    ("journal", "pub/sub to memory, file and postgres, with the journal against without it, lifecycles"),
    ("plugin-call", "a batch of 256 events through the plugin boundary against the same calls made statically"),
    ("latency", "confirmation at 1000 and 5000 events/s, from the intended send time, memory, file and postgres"),
    ("idle", "resident memory of an idle worker"),
    ("load", "resident memory under full load"),
    ("growth-memory", "cost of an event with many stored evaluations against few, memory"),
    ("growth-file", "likewise, file; and the start with many evaluations"),
    ("postgres", "the plugin postgres through the plugin boundary against a bare loop into the same tables, and COPY"),
    ("streams-postgres", "streams to postgres against members of a group that write the same rows, likewise"),
    ("growth-postgres", "rate on top of many stored evaluations against few, postgres"),
    ("start", "from exec to ready with an empty backend"),
];

/// What the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Names of rows; all if none is named.
    rows: Vec<String>,
    /// Alternated runs of each side.
    pub(crate) runs: usize,
    /// Events of one run.
    pub(crate) events: u64,
    /// Events of one run that stores them in files; some file systems take long to remove those.
    pub(crate) file_events: u64,
    /// Seconds of one run at a steady rate.
    pub(crate) seconds: u64,
    /// Events of the row `load`.
    pub(crate) load_events: u64,
    /// Evaluations that are many.
    pub(crate) many: u64,
    /// What of the row `postgres` is measured, so that it alone can be looked at with other tools: all if none is said.
    pub(crate) only: Vec<Only>,
}

/// A part of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Only {
    /// The plugin or the worker, and nothing to compare it with.
    Plugin,
    /// What it is compared with.
    Bare,
    /// A new evaluation per event.
    New,
    /// Evaluations that go through their lives.
    Lifecycles,
}

impl Options {
    /// Reads arguments. None stands for what `--help` asks for.
    ///
    /// # Errors
    /// The argument that is not known.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self {
            rows: Vec::new(),
            runs: 5,
            events: 120_000,
            file_events: 15_000,
            seconds: 3,
            load_events: 300_000,
            many: 100_000,
            only: Vec::new(),
        };
        for argument in arguments {
            match &*argument {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--help" => return Ok(None),
                "--quick" => {
                    (options.runs, options.events, options.file_events) = (3, 30_000, 6000);
                    options.seconds = 1;
                    (options.load_events, options.many) = (60_000, 30_000);
                }
                "--full" => (options.load_events, options.many) = (1_000_000, 1_000_000),
                "--only=plugin" => options.only.push(Only::Plugin),
                "--only=bare" => options.only.push(Only::Bare),
                "--only=new" => options.only.push(Only::New),
                "--only=lifecycles" => options.only.push(Only::Lifecycles),
                row if ROWS.iter().any(|(name, _)| *name == row) => options.rows.push(argument),
                _ => return Err(argument),
            }
        }
        Ok(Some(options))
    }

    /// True if a row is to be measured.
    pub(crate) fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|name| name == row)
    }

    /// False if another part was asked for instead of this one.
    pub(crate) fn includes(&self, part: Only) -> bool {
        let instead = match part {
            Only::Plugin => Only::Bare,
            Only::Bare => Only::Plugin,
            Only::New => Only::Lifecycles,
            Only::Lifecycles => Only::New,
        };
        !self.only.contains(&instead) || self.only.contains(&part)
    }
}
