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
    /// All registers of a small item get the stamp of the first one.
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
    /// Of the history what came first is kept, not what is the earliest.
    HistoryByArrival,
    /// A body that lives elsewhere becomes an empty text.
    EmptyReferences,
    /// The status that is answered is that of the item.
    StatusOfItem,
    /// States are answered sorted by id.
    SortedAnswers,
    /// Whole states are called incomplete.
    AlwaysIncomplete,
    /// Threads that have not merged see what there was before the last merge.
    CachePerThread,
    /// Bodies come whether they are asked for or not.
    BodiesAlways,
    /// `until` takes its own time in.
    UntilInclusive,
    /// A page of one is the last.
    PagesOfOne,
    /// A page ends where one read of the store ends, as if that were the end of the list.
    OneRead,
    /// Ids are sorted as people would.
    FriendlyOrder,
    /// The next page is that of the list that was read last.
    OneCursor,
    /// A status is found by what it was when the evaluation was created.
    StaleIndex,
    /// A cursor skips as many rows as were added.
    SkippingCursor,
    /// A cursor at a row that is gone ends the list.
    DeletedCursor,
    /// A cursor that cannot be read is an internal error.
    CursorIsInternal,
    /// Of one time the smaller id comes first.
    IdsAscending,
    /// Deleted is answered of what was not there.
    DeletedTwice,
    /// What was deleted without a digest never comes back.
    Tombstones,
    /// In a batch digests are not looked at.
    IgnoresDigest,
    /// Unknown options are ignored.
    AnyOption,
    /// Checking the options makes a file.
    CheckWrites,
    /// Instances of a process share their states.
    SharedStates,
    /// What was kept is gone when a place is opened for the third time.
    ThirdOpening,
    /// A flush after a merge fails.
    FlushFails,
    /// A place can be opened twice.
    NoLock,
    /// Whether an id is new is decided before the lock is taken.
    CreatedTwice,
    /// What was merged since a state was read is overwritten.
    LostUpdate,
    /// New states of calls at the same time overwrite each other.
    LostInsert,
    /// Between the comparison of a digest and the delete others may merge.
    DigestRace,
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
    /// While its far side is away calls come back long after their deadline.
    AwayHangs,
    /// Blobs are listed in another order than that of their keys.
    BlobsUnordered,
    /// A blob is deleted although it was stored again.
    BlobsAnyAge,
    /// Blobs are gone when a place is opened again.
    BlobsForgotten,
    /// Ends the process when several states are deleted by their digest.
    Aborts,
    /// Never comes back from a prune.
    Hangs,
    /// Never comes back from `open`.
    HangsInOpen,
}
