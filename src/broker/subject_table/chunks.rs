//! A list in chunks: growing never moves what is there, and what is given up goes back to the
//! allocator.

/// Items per chunk. A push allocates at most this much; so many that the list of chunks of a large
/// table stays in the processor's cache.
const CHUNK_ITEM_COUNT: usize = 2_048;

pub(super) struct Chunks<T> {
    /// All full but the last, none empty. Only the first grows by doubling, so that a short list is
    /// small.
    chunks: Vec<Vec<T>>,
}

impl<T> Chunks<T> {
    pub(super) fn new() -> Chunks<T> {
        Chunks { chunks: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        match self.chunks.last() {
            None => 0,
            Some(last) => (self.chunks.len() - 1) * CHUNK_ITEM_COUNT + last.len(),
        }
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK_ITEM_COUNT][index % CHUNK_ITEM_COUNT]
    }

    pub(super) fn get_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK_ITEM_COUNT][index % CHUNK_ITEM_COUNT]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    pub(super) fn push(&mut self, item: T) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK_ITEM_COUNT => last.push(item),
            None => self.chunks.push(vec![item]),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK_ITEM_COUNT);
                chunk.push(item);
                self.chunks.push(chunk);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let last = self.chunks.last_mut()?;
        let item = last.pop();
        if last.is_empty() {
            self.chunks.pop();
        } else if self.chunks.len() == 1 {
            shrink(&mut self.chunks[0]);
        }
        shrink(&mut self.chunks);
        item
    }
}

/// Gives memory back once three quarters of it are unused.
fn shrink<T>(list: &mut Vec<T>) {
    if list.capacity() > 16 && list.len() < list.capacity() / 4 {
        list.shrink_to(2 * list.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_chunks_is_a_vec() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut chunks = Chunks::new();
        let mut twin = Vec::new();
        for growing in [true, false, true, false] {
            for step in 0..4 * CHUNK_ITEM_COUNT {
                if random.u32(..8) < if growing { 6 } else { 1 } {
                    chunks.push(step);
                    twin.push(step);
                } else {
                    assert_eq!(chunks.pop(), twin.pop());
                }
                assert_eq!(chunks.len(), twin.len());
            }
            assert!(chunks.iter().eq(&twin));
            assert!(twin.iter().enumerate().all(|(index, item)| chunks.get(index) == item));
        }
        while chunks.pop().is_some() {}
        assert!(chunks.chunks.is_empty());
    }
}
