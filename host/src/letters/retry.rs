//! Takes letters through the worker again, as any delivery goes.

use std::io;

use super::Letter;
use super::desk::{Desk, Done, DoneOutcome, Note, Tried};
use crate::source::fed::{Ended, Feed, Handed};

/// Why letters were not tried.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// The letters cannot be read, or their fate cannot be noted.
    #[error("the dead letters cannot be read or changed: {0}")]
    Letters(#[from] io::Error),
    /// The worker takes nothing any more.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// Tries letters, waits until each is stored or has failed again, and notes that. An outage of storage is waited out.
///
/// # Errors
/// When the letters cannot be read or changed, or the worker ends; what was stored by then may be tried again.
pub async fn retry(desk: Desk, feed: Feed, ids: Vec<String>, note: Note) -> Result<Vec<Done>, RetryError> {
    let mut done = Vec::with_capacity(ids.len());
    let mut left = ids;
    while !left.is_empty() {
        let (reading, wanted) = (desk.clone(), left.clone());
        let (letters, looked_at) = blocking(move || reading.first_letters(&wanted)).await?;
        let outcomes = feed.hand(letters.iter().map(handed).collect()).await?;
        let tried: Vec<_> = letters.iter().zip(outcomes).map(|(letter, outcome)| Tried::new(letter, outcome)).collect();
        let gone = left.drain(..looked_at).filter(|id| !letters.iter().any(|letter| letter.id == *id));
        done.extend(gone.map(|id| Done { id, outcome: DoneOutcome::Gone, error: None }));
        let (settling, note) = (desk.clone(), note.clone());
        done.extend(blocking(move || settling.settle(&tried, &note)).await?);
    }
    Ok(done)
}

fn handed(letter: &Letter) -> Handed {
    Handed {
        channel: letter.channel.as_str().into(),
        payload: letter.current_payload().to_vec(),
        event_id: letter.event_id.as_deref().map(Into::into),
        time: Some(letter.time),
        is_letter: true,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
