//! The rules that can be broken, each named after what goes wrong.

use serde::Deserialize;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rule {
    /// Of a `first` register the last arrival is kept, unless the times are equal.
    LastArrival,
    /// Of equal times the last arrival is kept.
    TiesByArrival,
    /// All registers of an item get the stamp of the first one.
    OneStampPerItem,
    /// Of an id that occurs twice in a batch only the last item is taken.
    BatchDedup,
    /// An impossible id fails the whole batch.
    BadItemFailsBatch,
    /// A batch of nothing is an error.
    EmptyBatch,
    /// A state of which nothing is known is stored.
    StoresNothing,
    /// Of a large batch only a part is stored.
    BatchCap,
    /// Long bodies are cut.
    Truncates,
    /// NUL is left out of bodies.
    StripsNul,
    /// Ids that differ in case only are one.
    IgnoresCase,
    /// Registers of other names than today's are dropped.
    KnownNames,
    /// The status that is answered is that of the item.
    StatusOfItem,
    /// States are answered sorted by id.
    SortedAnswers,
    /// Bodies come whether they are asked for or not.
    BodiesAlways,
    /// `until` takes its own time in.
    UntilInclusive,
    /// A cursor skips as many rows as were added.
    SkippingCursor,
    /// A cursor at a row that is gone ends the list.
    DeletedCursor,
    /// A cursor that cannot be read is an internal error.
    CursorIsInternal,
    /// Of one time the smaller id comes first.
    IdsAscending,
    /// What was deleted never comes back.
    Tombstones,
    /// A digest is not looked at.
    IgnoresDigest,
    /// Unknown options are ignored.
    AnyOption,
    /// Checking the options makes a file.
    CheckWrites,
    /// A place can be opened twice.
    NoLock,
    /// Whether an id is new is decided before the lock is taken.
    CreatedTwice,
    /// What was merged since a state was read is overwritten.
    LostUpdate,
    /// Health waits.
    SlowHealth,
    /// Each instance leaves a thread behind.
    LeaksThreads,
    /// Room for a whole page is taken before it is known how many there are.
    Capacity,
    /// Answers say volatile.
    SaysVolatile,
    /// Deletes are not written down.
    ForgetsDeletes,
    /// Nothing is synced.
    NeverSyncs,
    /// What was merged last is dropped after a crash.
    LosesLastBatch,
    /// Counts are counted once.
    CountsOnce,
    /// What never ended is pruned as well.
    PrunesOpen,
    /// Says that it is for several processes.
    ClaimsShared,
    /// Counts are answered that are not claimed.
    OffersMore,
    /// A far side that is away is an internal error.
    AwayIsInternal,
    /// Ends the process when something is deleted by its digest.
    Aborts,
    /// Never comes back from a prune.
    Hangs,
    /// Never comes back from `open`.
    HangsInOpen,
}
