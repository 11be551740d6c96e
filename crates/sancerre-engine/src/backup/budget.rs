//! How a backup divides the memory it may use.

/// Shares of `--memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Regions scanned at once.
    pub workers: usize,
    /// Finished packs in memory: on their way to the store, or waiting.
    pub uploads: usize,
    /// The index of known chunks.
    pub index_bytes: u64,
    /// The chunks that this session stored.
    pub session_bytes: u64,
    /// Tables of packs, against which the words of others are proven.
    pub tables_bytes: u64,
}

const MIB: u64 = 1 << 20;
/// Program, runtime, base map, log.
const FIXED_BYTES: u64 = 40 * MIB;
/// A worker's window, frame and compressor.
const WORKER_BYTES: u64 = 8 * MIB;
/// Uploads that hide the latency of any store; more only cost memory.
const UPLOADS_MAX: u64 = 8;
/// Least for the index, however little memory there is: without any all would be stored again, every night. It holds the index of
/// some terabytes.
const INDEX_BYTES_MIN: u64 = 8 * MIB;
/// Least for the chunks of this session, and for the tables of packs: to know its own zeros and templates.
const TABLES_BYTES_MIN: u64 = 2 * MIB;

impl Budget {
    /// Divides `memory_bytes` for packs of `pack_bytes` and `width` processors. Never less than one of each.
    pub(super) fn divide(memory_bytes: u64, pack_bytes: u64, width: usize) -> Self {
        // Two packs are open (data, metadata); a third of the rest goes to finished ones.
        let free = memory_bytes.saturating_sub(FIXED_BYTES).saturating_sub(pack_bytes.saturating_mul(2));
        let uploads = (free / 2 / pack_bytes.max(1)).clamp(1, UPLOADS_MAX);
        let free = free.saturating_sub(uploads.saturating_mul(pack_bytes));
        let workers = usize::try_from(free / 2 / WORKER_BYTES).unwrap_or(usize::MAX).clamp(1, width.max(1));
        let workers_bytes = WORKER_BYTES.saturating_mul(u64::try_from(workers).unwrap_or(1));
        let free = free.saturating_sub(workers_bytes);
        Self {
            workers,
            uploads: usize::try_from(uploads).unwrap_or(1),
            index_bytes: (free / 8 * 5).max(INDEX_BYTES_MIN),
            session_bytes: (free / 4).max(TABLES_BYTES_MIN),
            tables_bytes: (free / 8).max(TABLES_BYTES_MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_feeds_two_cores() {
        let budget = Budget::divide(300 * MIB, 32 * MIB, 2);
        assert_eq!((budget.workers, budget.uploads), (2, 3));
        assert!(budget.index_bytes >= 40 * MIB && budget.tables_bytes >= 8 * MIB, "{budget:?}");
    }

    #[test]
    fn the_shares_stay_within_the_whole() {
        for memory in [200, 300, 512, 4096, 65_536] {
            for width in [1, 2, 16, 128] {
                let budget = Budget::divide(memory * MIB, 32 * MIB, width);
                let packs = (2 + budget.uploads as u64) * 32 * MIB;
                let workers = budget.workers as u64 * WORKER_BYTES;
                let shares = budget.index_bytes + budget.session_bytes + budget.tables_bytes;
                let sum = FIXED_BYTES + packs + workers + shares;
                assert!(sum <= memory * MIB, "{memory} MiB, {width} cores: {budget:?}");
            }
        }
    }

    #[test]
    fn too_little_memory_still_works() {
        let budget = Budget::divide(0, 32 * MIB, 8);
        assert_eq!((budget.workers, budget.uploads, budget.index_bytes), (1, 1, INDEX_BYTES_MIN));
    }
}
