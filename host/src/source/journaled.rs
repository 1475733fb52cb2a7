//! A source behind a journal: a thread reads it and never waits for storage; the worker reads what the journal hands over.
//!
//! What the worker settles goes back to the journal. Told to stop, the source hands over what had arrived and ends; what
//! the worker does not get to stays in the journal, for the next start.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;
use std::{io, thread};

use super::{Control, Delivery, Read, Source, Status, Token};
use crate::journal::{Journal, Position, Reader, Recorded, Writer};

/// A source whose deliveries are on disk until they are settled.
#[derive(Debug)]
pub struct Journaled {
    name: &'static str,
    control: Arc<JournaledControl>,
    reader: Reader,
    recorder: Recorder,
    recorded: Vec<Recorded>,
}

/// The thread that reads the source.
enum Recorder {
    /// It starts with the first read, since nobody could take what it receives before.
    Waiting(Box<dyn Source>, Writer),
    Running(JoinHandle<()>),
    Ended,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Waiting(..) => "Waiting",
            Self::Running(_) => "Running",
            Self::Ended => "Ended",
        })
    }
}

impl Journaled {
    /// Puts a journal behind a source.
    #[must_use]
    pub fn new(source: Box<dyn Source>, (journal, writer, reader): (Arc<Journal>, Writer, Reader)) -> Self {
        let control = Arc::new(JournaledControl { inner: source.control(), journal });
        Self { name: source.name(), control, reader, recorder: Recorder::Waiting(source, writer), recorded: Vec::new() }
    }

    fn start_recorder(&mut self) -> io::Result<()> {
        self.recorder = match std::mem::replace(&mut self.recorder, Recorder::Ended) {
            Recorder::Waiting(source, writer) => {
                let name = format!("record-{}", self.name);
                Recorder::Running(thread::Builder::new().name(name).spawn(move || record(source, writer))?)
            }
            running => running,
        };
        Ok(())
    }
}

impl Source for Journaled {
    fn name(&self) -> &'static str {
        self.name
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.control) as Arc<dyn Control>
    }

    fn read(&mut self, deliveries: &mut Vec<Delivery>) -> Read {
        if matches!(self.recorder, Recorder::Waiting(..)) {
            self.start_recorder().expect("the system gives the thread that records what arrives");
        }
        if self.reader.read(&mut self.recorded) {
            deliveries.extend(self.recorded.drain(..).map(|recorded| Delivery {
                channel: recorded.channel,
                payload: recorded.payload,
                received_at: recorded.received_at,
                token: recorded.position.map(|Position { segment, at }| Token([segment, at, 0])),
                ..Delivery::default()
            }));
            return Read::Deliveries;
        }
        if let Recorder::Running(thread) = std::mem::replace(&mut self.recorder, Recorder::Ended)
            && let Err(panic) = thread.join()
        {
            // The worker is to know, and to begin anew.
            std::panic::resume_unwind(panic);
        }
        Read::Ended
    }
}

/// Takes what arrives into the journal until the source ends.
fn record(mut source: Box<dyn Source>, mut writer: Writer) {
    let mut deliveries = Vec::new();
    while source.read(&mut deliveries) == Read::Deliveries {
        writer.append(deliveries.drain(..).map(|delivery| Recorded {
            channel: delivery.channel,
            payload: delivery.payload,
            received_at: delivery.received_at,
            position: None,
        }));
    }
}

/// The source as other threads see it.
#[derive(Debug)]
struct JournaledControl {
    inner: Arc<dyn Control>,
    journal: Arc<Journal>,
}

impl Control for JournaledControl {
    fn stop(&self) {
        self.inner.stop();
        self.journal.stop();
    }

    fn acknowledge(&self, tokens: &[Token]) {
        self.journal.settle(tokens.iter().map(|Token([segment, at, _])| Position { segment: *segment, at: *at }));
    }

    fn finish(&self, deadline: Instant) {
        self.inner.finish(deadline);
        self.journal.finish(deadline);
    }

    fn status(&self) -> Status {
        Status { journal: Some(self.journal.status()), ..self.inner.status() }
    }
}
