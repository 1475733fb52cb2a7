//! Makes the consumer group where it is missing: where the configuration says, or where it was when it was deleted.

use std::sync::Arc;

use tracing::{info, warn};

use super::Reader;
use crate::source::config::Start;
use crate::source::streams::commands::{self, Info};
use crate::source::streams::entry::EntryId;
use crate::source::streams::failure::Failure;

impl Reader {
    /// Makes the group unless it is there, and notes where it is: should it be deleted, it starts there again.
    pub(super) async fn prepare(&mut self) -> Result<(), Failure> {
        self.make_group().await?;
        let shared = Arc::clone(&self.shared);
        let (key, group) = (shared.key(), &shared.membership.member.group);
        if shared.known().acknowledged.is_none() {
            let groups = Info::all_of(self.ask(&commands::info_groups(key)).await?)?;
            let pending = self.ask(&commands::pending_summary(key, group.as_bytes())).await?;
            if let Some(info) = groups.iter().find(|info| info.bytes("name") == group.as_bytes()) {
                shared.known().acknowledged = Some(commands::acknowledged(info, pending)?);
            }
        }
        Ok(())
    }

    async fn make_group(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let (key, group) = (shared.key(), &shared.membership.member.group);
        let groups = match self.ask(&commands::info_groups(key)).await {
            Ok(answer) => Info::all_of(answer)?,
            Err(Failure::Redis(error)) if error.code() == Some("ERR") => Vec::new(),
            Err(failure) => return Err(failure),
        };
        if groups.iter().any(|info| info.bytes("name") == group.as_bytes()) {
            return Ok(());
        }
        let known = shared.known().acknowledged;
        let start = match known {
            None => match shared.membership.config.start {
                Start::Oldest => "0".to_owned(),
                Start::New => "$".to_owned(),
            },
            Some(acknowledged) => self.start_again(key, acknowledged).await?.to_string(),
        };
        match self.ask(&commands::create_group(key, group, &start)).await {
            Ok(_) if known.is_none() => info!(stream = key, group, start, "consumer group created"),
            Ok(_) => warn!(
                stream = key,
                group,
                start,
                "the consumer group was deleted and is created anew, to start where all was acknowledged; what is read again does no harm"
            ),
            // Another worker was faster.
            Err(Failure::Redis(error)) if error.code() == Some("BUSYGROUP") => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Where a group starts that was deleted: behind what was acknowledged, or at the beginning of another stream.
    async fn start_again(&mut self, key: &str, acknowledged: EntryId) -> Result<EntryId, Failure> {
        let last = match self.ask(&commands::info_stream(key)).await {
            Ok(answer) => Info::of(answer)?.id("last-generated-id"),
            Err(Failure::Redis(error)) if error.code() == Some("ERR") => None,
            Err(failure) => return Err(failure),
        };
        Ok(if last.is_some_and(|last| last >= acknowledged) { acknowledged } else { EntryId::ZERO })
    }
}
