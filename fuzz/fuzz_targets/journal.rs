//! Of a segment that was damaged anywhere every byte is told of once, and every entry that was not hit is found again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_worker::journal::{Entry, Found, push, recover};

const SALT: u32 = 0x5eed;

/// What stands in a segment; panics unless it covers every byte once, in order.
fn entries(bytes: &[u8]) -> Vec<(usize, usize, Vec<u8>)> {
    let (mut next, mut found) = (0, Vec::new());
    for item in recover(bytes, SALT) {
        let (at, end) = match item {
            Found::Entry { at, end, entry } => {
                found.push((at, end, entry.payload.to_vec()));
                (at, end)
            }
            Found::Damage { at, end, is_tail } => {
                assert_eq!(is_tail, end == bytes.len());
                (at, end)
            }
        };
        assert!(at == next && end > at, "{at}..{end} behind {next}");
        next = end;
    }
    assert_eq!(next, bytes.len());
    found
}

fuzz_target!(|data: (Vec<Vec<u8>>, usize, u8, &[u8])| {
    let (payloads, place, flip, raw) = data;
    // As it comes, without a single entry.
    entries(raw);

    let mut segment = Vec::new();
    for payload in &payloads {
        push(&mut segment, SALT, &Entry { channel: "evaluation:queued", payload, received_at: 1 });
    }
    let whole = entries(&segment);
    assert!(whole.iter().map(|(_, _, payload)| payload).eq(&payloads));
    if segment.is_empty() || flip == 0 {
        return;
    }
    let place = place % segment.len();
    segment[place] ^= flip;
    let left: Vec<_> = whole.into_iter().filter(|(at, end, _)| !(*at..*end).contains(&place)).collect();
    assert_eq!(entries(&segment), left);
    // Cut off there.
    let before: Vec<_> = left.into_iter().filter(|(_, end, _)| *end <= place).collect();
    assert_eq!(entries(&segment[..place]), before);
});
