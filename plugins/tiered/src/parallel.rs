//! Several calls of a child at once: a batch may have many large bodies, and a far store takes its time for each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use storage_plugin_api::plugin_host::Host;

/// Does something with each, several at a time, the calling thread included. The results are in the order of the list.
pub(crate) fn each<T: Sync, R: Send>(host: &Host, at_once: usize, list: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let places =
            std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|place| *place < list.len()));
        places.map(|place| (place, run(&list[place]))).collect::<Vec<_>>()
    };
    let mut done = thread::scope(|scope| {
        let speak_and_work = || {
            host.speak_on_this_thread();
            work()
        };
        // Where the system gives no more threads, there are fewer.
        let start = |_| thread::Builder::new().name("tiered".to_owned()).spawn_scoped(scope, speak_and_work).ok();
        let threads: Vec<_> = (1..at_once.min(list.len())).map_while(start).collect();
        let mut done = work();
        for thread in threads {
            done.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_are_in_order_and_made_side_by_side() {
        let both_are_here = Barrier::new(2);
        let host = Host::detached("tiered");

        let doubled = each(&host, 2, &[1, 2], |number| {
            both_are_here.wait();
            number * 2
        });

        assert_eq!(doubled, [2, 4]);
        assert_eq!(each(&host, 8, &[0; 0], |number| *number), [0; 0]);
        assert_eq!(each(&host, 3, &(0..100).collect::<Vec<_>>(), |number| *number), (0..100).collect::<Vec<_>>());
    }
}
