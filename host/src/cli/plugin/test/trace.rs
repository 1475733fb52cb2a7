//! What the system calls of a flood say of its durability.
//!
//! Every event has an id that nothing else contains, so the writes of a merge are known by it. One of the files that it
//! was written to must have been synced since: a log makes up for a table that is written behind it. Where the id is in
//! nothing that was written, since that was compressed or encrypted, it is enough that something was synced or sent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use storage_plugin_api::conformance::{Flood, Synced};

use super::processes::MARK;

const CALLS: &str = "trace=write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,openat,fsync,fdatasync,msync,\
                     sync,syncfs";
/// What stands for a sync of everything.
const EVERYTHING: &str = "*";

pub(super) fn is_there() -> bool {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search).any(|directory| directory.join("strace").is_file())
}

/// What is started before a program, so that its calls are written to a file.
pub(super) fn command(file: &Path) -> Vec<String> {
    // -yy names the file or socket of every descriptor, -s shows all of what is written.
    let arguments = ["strace", "-f", "-yy", "-s", "262144", "-e", CALLS, "-e", "signal=none", "-o"];
    arguments.into_iter().map(str::to_owned).chain([file.to_string_lossy().into_owned()]).collect()
}

/// What happened since a merge was called.
#[derive(Default)]
struct Window {
    /// Files that have the event, and the line of the last such write.
    written: BTreeMap<String, usize>,
    /// Syncs that succeeded: the line where each began, and its file.
    synced: Vec<(usize, String)>,
    /// The event went to a socket.
    is_sent: bool,
    /// Something went to a socket, perhaps the event, which could not be read in it.
    is_something_sent: bool,
}

/// Judges every merge of a flood.
pub(super) fn read(trace: &str, flood: &Flood) -> Vec<Synced> {
    let mut judged = Vec::new();
    let mut merging: Option<(String, Window)> = None;
    // Files opened so that every write is a sync.
    let mut always_synced: BTreeSet<String> = BTreeSet::new();
    // Of each thread the sync that it is in.
    let mut syncing: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for (place, line) in trace.lines().enumerate() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(name) = call.strip_prefix("<... ") {
            if is_sync(name.split(' ').next().unwrap_or_default())
                && let (Some(sync), Some((_, window))) = (syncing.remove(thread), &mut merging)
                && succeeded(call)
            {
                window.synced.push(sync);
            }
            continue;
        }
        let Some((name, arguments)) = call.split_once('(') else { continue };
        let target = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
        if name == "openat" {
            if call.contains("SYNC")
                && let Some((_, opened)) = call.rsplit_once('<')
            {
                always_synced.insert(opened.trim_end_matches('>').to_owned());
            }
        } else if is_sync(name) {
            let target = if matches!(name, "sync" | "syncfs") { EVERYTHING } else { target };
            if call.ends_with("<unfinished ...>") {
                syncing.insert(thread, (place, target.to_owned()));
            } else if let (Some((_, window)), true) = (&mut merging, succeeded(call)) {
                window.synced.push((place, target.to_owned()));
            }
        } else if let Some(step) = step(arguments, target) {
            match step {
                Told::Merging(number) => merging = Some((flood.event_id(number), Window::default())),
                Told::Answered => judged.extend(merging.take().map(|(_, window)| window.judge(&always_synced))),
            }
        } else if let Some((event_id, window)) = &mut merging {
            // Where it is not, it may be in another form.
            let has_event = call.contains(event_id.as_str());
            match target.starts_with('/') {
                true if has_event => drop(window.written.insert(target.to_owned(), place)),
                true if always_synced.contains(target) => window.synced.push((place, target.to_owned())),
                true => {}
                false => {
                    window.is_sent |= has_event && is_socket(target);
                    window.is_something_sent |= is_socket(target);
                }
            }
        }
    }
    judged
}

impl Window {
    fn judge(self, always_synced: &BTreeSet<String>) -> Synced {
        let covers = |file: &String, written: usize| {
            always_synced.contains(file)
                || self
                    .synced
                    .iter()
                    .any(|(begun, synced)| *begun > written && (synced == file || synced == EVERYTHING))
        };
        if let Some((file, _)) = self.written.iter().find(|(file, written)| covers(file, **written)) {
            return Synced::Itself(file.clone());
        }
        if let Some(file) = self.written.keys().next() {
            return Synced::Never(format!("it was written to `{file}`, and answered before that was synced"));
        }
        match () {
            () if self.is_sent => Synced::Sent,
            () if !self.synced.is_empty() => Synced::Something,
            () if self.is_something_sent => Synced::SentSomething,
            () => Synced::Never("nothing was synced between the call and the answer".to_owned()),
        }
    }
}

/// Of another process or machine; datagrams are left out, since they are for logs and metrics.
fn is_socket(target: &str) -> bool {
    ["TCP", "UNIX-STREAM", "UNIX-SEQPACKET", "socket"].iter().any(|kind| target.starts_with(kind))
}

fn is_sync(name: &str) -> bool {
    matches!(name, "fsync" | "fdatasync" | "msync" | "sync" | "syncfs")
}

fn succeeded(call: &str) -> bool {
    call.trim_end().ends_with("= 0")
}

enum Told {
    Merging(u64),
    Answered,
}

/// What the flood says of itself on its standard output.
fn step(arguments: &str, target: &str) -> Option<Told> {
    if !arguments.starts_with("1<") || !target.starts_with("pipe") {
        return None;
    }
    let (_, told) = arguments.split_once(MARK.trim_start_matches('\u{1}'))?;
    let (word, number) = told.split_once(' ')?;
    let number = number.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok()?;
    match word {
        "merging" => Some(Told::Merging(number)),
        "answered" => Some(Told::Answered),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(calls: &[&str]) -> Synced {
        let flood = Flood { prefix: "p".to_owned(), writer: 0, evaluations: 1, events: 1, batch: 1 };
        let begin = "7 write(1<pipe:[9]>, \"\\1test merging 0\\n\", 15) = 15\n";
        let end = "7 write(1<pipe:[9]>, \"\\1test answered 0\\n\", 16) = 16\n";
        let trace = format!("{begin}{}{end}", calls.concat());
        let mut judged = read(&trace, &flood);
        assert_eq!(judged.len(), 1, "{trace}");
        judged.remove(0)
    }

    const WRITE: &str = "8 write(5</data/log>, \"pw0n0e\", 6) = 6\n";
    const OTHER: &str = "8 write(5</data/log>, \"zipped\", 6) = 6\n";
    const SYNC: &str = "8 fdatasync(5</data/log>) = 0\n";
    const OF_OTHER: &str = "8 fdatasync(6</data/table>) = 0\n";
    const BEGINS: &str = "9 fdatasync(5</data/log> <unfinished ...>\n";
    const ENDS: &str = "9 <... fdatasync resumed>) = 0\n";

    #[test]
    fn a_sync_counts_that_began_after_the_write_and_ended_before_the_answer() {
        let file = || Synced::Itself("/data/log".to_owned());
        assert_eq!(judged(&[WRITE, SYNC]), file());
        assert_eq!(judged(&[WRITE, BEGINS, ENDS]), file());
        assert_eq!(judged(&[OTHER, SYNC]), Synced::Something);
        for calls in
            [&[WRITE][..], &[SYNC, WRITE], &[BEGINS, WRITE, ENDS], &[WRITE, BEGINS], &[WRITE, OF_OTHER], &[OTHER], &[]]
        {
            assert!(matches!(judged(calls), Synced::Never(_)), "{calls:?}");
        }
    }

    #[test]
    fn files_that_sync_every_write_and_sockets_are_known() {
        let open = "8 openat(AT_FDCWD</>, \"/data/log\", O_WRONLY|O_DSYNC) = 5</data/log>\n";
        let send = "8 sendto(6<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"pw0n0e\", 6, 0, NULL, 0) = 6\n";

        assert_eq!(judged(&[open, WRITE]), Synced::Itself("/data/log".to_owned()));
        assert_eq!(judged(&[open, OTHER]), Synced::Something);
        assert_eq!(judged(&[send]), Synced::Sent);
    }

    /// As `postgres` does it with `sslmode=require`.
    #[test]
    fn what_is_sent_encrypted_is_for_the_far_side_but_no_excuse_for_a_file_that_has_the_event() {
        let send = "8 sendto(6<TCPv6:[[::1]:1->[::1]:2]>, \"\\27\\3\\3\\0\"..., 90, MSG_NOSIGNAL, NULL, 0) = 90\n";
        let begun =
            "8 writev(6<TCP:[127.0.0.1:1->127.0.0.1:2]>, [{iov_base=\"\\27\\3\", iov_len=2}], 1 <unfinished ...>\n";
        let to_log = "8 sendto(7<UNIX-DGRAM:[5->6]>, \"<30>merged\", 10, 0, NULL, 0) = 10\n";
        let of_metrics = "8 sendto(7<UDP:[127.0.0.1:1->127.0.0.1:2]>, \"merged:1|c\", 10, 0, NULL, 0) = 10\n";

        assert_eq!(judged(&[send]), Synced::SentSomething);
        assert_eq!(judged(&[begun]), Synced::SentSomething);
        assert_eq!(judged(&[send, SYNC]), Synced::Something);
        for calls in [&[send, WRITE][..], &[WRITE, send], &[to_log], &[of_metrics]] {
            assert!(matches!(judged(calls), Synced::Never(_)), "{calls:?}");
        }
    }
}
