//! How many of something each holder has, for as long as they have it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts by holder; nobody is remembered who holds none.
#[derive(Debug)]
pub(super) struct Counted<K>(Arc<Mutex<BTreeMap<K, usize>>>);

/// One that a holder has, until this is dropped.
#[derive(Debug)]
pub(super) struct One<K: Ord> {
    holder: K,
    counts: Arc<Mutex<BTreeMap<K, usize>>>,
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord + Clone> Counted<K> {
    /// One more for a holder who has fewer than `most`.
    pub(super) fn take(&self, holder: K, most: usize) -> Option<One<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&holder).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        counts.insert(holder.clone(), count + 1);
        Some(One { holder, counts: Arc::clone(&self.0) })
    }

    /// Whether nobody holds any.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl<K: Ord> Drop for One<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.holder) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(counts.remove(&self.holder)),
        }
    }
}
