//! Free byte buffers of one shard, by size class: memory is taken once and goes round.

use std::cell::RefCell;

/// Buffers of the sizes in `classes`, smallest first. Larger ones are made to measure and not kept.
pub struct BufferPool {
    classes: &'static [usize],
    free: RefCell<Vec<Vec<Vec<u8>>>>,
    kept_bytes_max: usize,
}

impl BufferPool {
    /// Keeps at most `kept_bytes_max` bytes of free buffers of each class.
    pub fn new(classes: &'static [usize], kept_bytes_max: usize) -> Self {
        assert!(!classes.is_empty() && classes.is_sorted());
        Self { classes, free: RefCell::new(vec![Vec::new(); classes.len()]), kept_bytes_max }
    }

    /// The smallest class that holds `bytes`, or the largest there is.
    pub fn class_of(&self, bytes: usize) -> usize {
        self.classes.iter().position(|class| *class >= bytes).unwrap_or(self.classes.len() - 1)
    }

    pub fn class_bytes(&self, class: usize) -> usize {
        self.classes[class]
    }

    pub fn class_max(&self) -> usize {
        self.classes.len() - 1
    }

    /// An empty buffer with a capacity of at least `bytes`, and of at least the size of `class`.
    pub fn take(&self, bytes: usize, class: usize) -> Vec<u8> {
        match self.classes.iter().position(|size| *size >= bytes) {
            Some(fitting) => {
                let class = class.max(fitting);
                let pooled = self.free.borrow_mut()[class].pop();
                pooled.unwrap_or_else(|| Vec::with_capacity(self.classes[class]))
            }
            None => Vec::with_capacity(bytes),
        }
    }

    /// Takes a buffer back; one that is no class's size is freed.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        if let Some(class) = self.classes.iter().position(|size| *size == buffer.capacity()) {
            let free = &mut self.free.borrow_mut()[class];
            if (free.len() + 1) * self.classes[class] <= self.kept_bytes_max {
                buffer.clear();
                free.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_go_round_within_their_class() {
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
}
