//! Free byte buffers of one shard by size class, reused instead of freed.

use std::cell::RefCell;

use crate::base::limits::POOL_TRIMMED_MAX;

/// Buffers of the sizes in `classes`, smallest first. Larger ones are allocated to measure and not
/// kept.
pub struct BufferPool {
    classes: &'static [usize],
    free: RefCell<Vec<Free>>,
    kept_bytes_max: usize,
}

/// The free buffers of one class.
#[derive(Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    /// The fewest free ones since the last trim: as many were not needed.
    unneeded: usize,
}

impl BufferPool {
    /// Keeps at most `kept_bytes_max` bytes of free buffers of each class.
    pub fn new(classes: &'static [usize], kept_bytes_max: usize) -> Self {
        assert!(!classes.is_empty() && classes.is_sorted());
        let free = classes.iter().map(|_| Free::default()).collect();
        Self { classes, free: RefCell::new(free), kept_bytes_max }
    }

    /// Returns the index of the smallest class that holds `bytes`, or of the largest class.
    pub fn class_of(&self, bytes: usize) -> usize {
        self.classes.iter().position(|class| *class >= bytes).unwrap_or(self.classes.len() - 1)
    }

    pub fn class_bytes(&self, class: usize) -> usize {
        self.classes[class]
    }

    pub fn class_max(&self) -> usize {
        self.classes.len() - 1
    }

    /// Returns an empty buffer with a capacity of at least `bytes`, and of at least the size of
    /// `class`.
    pub fn take(&self, bytes: usize, class: usize) -> Vec<u8> {
        match self.classes.iter().position(|size| *size >= bytes) {
            Some(fitting) => {
                let class = class.max(fitting);
                let free = &mut self.free.borrow_mut()[class];
                let pooled = free.buffers.pop();
                free.unneeded = free.unneeded.min(free.buffers.len());
                pooled.unwrap_or_else(|| Vec::with_capacity(self.classes[class]))
            }
            None => Vec::with_capacity(bytes),
        }
    }

    /// Takes a buffer back; one whose capacity is no class's size is freed.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        if let Some(class) = self.classes.iter().position(|size| *size == buffer.capacity()) {
            let free = &mut self.free.borrow_mut()[class];
            if (free.buffers.len() + 1) * self.classes[class] <= self.kept_bytes_max {
                buffer.clear();
                free.buffers.push(buffer);
            }
        }
    }

    /// Frees buffers that nobody needed since the last call, at most `POOL_TRIMMED_MAX` of each
    /// class: a single one left here and there would keep all the memory around it.
    pub fn trim(&self) {
        for Free { buffers, unneeded } in self.free.borrow_mut().iter_mut() {
            // The ones that lay unused for longest.
            buffers.drain(..(*unneeded).min(POOL_TRIMMED_MAX));
            *unneeded = buffers.len();
            if buffers.len() < buffers.capacity() / 4 {
                buffers.shrink_to(2 * buffers.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_within_their_class() {
        let pool = BufferPool::new(&[10, 100], 100);
        let buffer = pool.take(11, 0);
        assert_eq!(buffer.capacity(), 100);
        let address = buffer.as_ptr();
        pool.give_back(buffer);
        pool.give_back(Vec::with_capacity(100));
        let again = pool.take(5, 1);
        assert_eq!(again.as_ptr(), address);
        assert!(pool.take(1000, 0).capacity() >= 1000);
    }

    #[test]
    fn buffers_not_needed_between_two_trims_are_freed() {
        const COUNT: usize = 3 * POOL_TRIMMED_MAX;
        let pool = BufferPool::new(&[10, 100], 1 << 20);
        let free = || pool.free.borrow()[1].buffers.len();
        let use_some = |count: usize| {
            let taken: Vec<_> = (0..count).map(|_| pool.take(100, 1)).collect();
            taken.into_iter().for_each(|buffer| pool.give_back(buffer));
        };
        use_some(COUNT);
        pool.trim();
        assert_eq!(free(), COUNT, "all were in use until now");
        use_some(COUNT - 10);
        pool.trim();
        assert_eq!(free(), COUNT - 10);
        for left in [2, 1, 0] {
            pool.trim();
            assert_eq!(free(), (left * POOL_TRIMMED_MAX).saturating_sub(10));
        }
        assert_eq!(pool.free.borrow()[1].buffers.capacity(), 0);
    }
}
