//! Pages that were read lately.

use std::collections::HashMap;
use std::sync::Arc;

use sancerre_format::index::IndexEntry;

/// A page by its segment, counted from the newest, and its number there.
pub(super) type PageKey = (usize, usize);
/// Its entries.
pub(super) type Page = Arc<Vec<IndexEntry>>;

/// The last pages used, within a budget.
pub(super) struct PageCache {
    pages: HashMap<PageKey, (Page, u64)>,
    used: u64,
    bytes: u64,
    budget_bytes: u64,
}

impl PageCache {
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self { pages: HashMap::new(), used: 0, bytes: 0, budget_bytes }
    }

    pub(super) fn get(&mut self, key: PageKey) -> Option<Page> {
        self.used = self.used.saturating_add(1);
        let (page, used) = self.pages.get_mut(&key)?;
        *used = self.used;
        Some(Arc::clone(page))
    }

    /// Keeps a page; those that were not used for longest go.
    pub(super) fn put(&mut self, key: PageKey, page: &Page) {
        self.used = self.used.saturating_add(1);
        self.bytes = self.bytes.saturating_add(page_bytes(page));
        if let Some((old, _)) = self.pages.insert(key, (Arc::clone(page), self.used)) {
            self.bytes = self.bytes.saturating_sub(page_bytes(&old));
        }
        while self.bytes > self.budget_bytes {
            let oldest = self.pages.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            let Some((page, _)) = oldest.and_then(|key| self.pages.remove(&key)) else { break };
            self.bytes = self.bytes.saturating_sub(page_bytes(&page));
        }
    }
}

fn page_bytes(page: &[IndexEntry]) -> u64 {
    u64::try_from(size_of_val(page)).unwrap_or(u64::MAX).saturating_add(128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sancerre_format::id::{ContentId, FrameName, FramePlace, PackName, Place};

    fn page(entries: usize) -> Page {
        let frame = FrameName { pack: PackName { session: 1, ordinal: 0 }, index: 0 };
        let frame = FramePlace { frame, offset_bytes: 0, sealed_bytes: 0 };
        let place = Place { frame, offset_bytes: 0, size_bytes: 1 };
        Arc::new(vec![IndexEntry { id: ContentId([0; 32]), place }; entries])
    }

    #[test]
    fn the_page_that_rested_longest_goes() {
        let mut cache = PageCache::new(2 * page_bytes(&page(10)));
        cache.put((0, 1), &page(10));
        cache.put((0, 2), &page(10));
        assert!(cache.get((0, 1)).is_some());
        cache.put((0, 3), &page(10));
        assert_eq!([1, 2, 3].map(|number| cache.get((0, number)).is_some()), [true, false, true]);
        cache.put((0, 1), &page(1));
        assert_eq!(cache.bytes, page_bytes(&page(10)) + page_bytes(&page(1)));
    }

    #[test]
    fn without_a_budget_nothing_is_kept() {
        let mut cache = PageCache::new(0);
        cache.put((0, 1), &page(1));
        assert!(cache.get((0, 1)).is_none());
        assert_eq!((cache.bytes, cache.pages.len()), (0, 0));
    }
}
