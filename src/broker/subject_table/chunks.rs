//! A dense list in chunks: growing never moves what is there, and removing leaves no hole.

/// Items per chunk. A push moves fewer than this and allocates at most this much; so many that the list of
/// chunks of a large table stays in the processor's cache.
const CHUNK_ITEM_COUNT: usize = 4_096;

pub struct Chunks<T> {
    /// All full but the last, none empty. Only the first grows by doubling, so that a short list is small.
    chunks: Vec<Vec<T>>,
}

impl<T> Chunks<T> {
    pub fn new() -> Chunks<T> {
        Chunks { chunks: Vec::new() }
    }

    pub fn len(&self) -> usize {
        match self.chunks.last() {
            None => 0,
            Some(last) => (self.chunks.len() - 1) * CHUNK_ITEM_COUNT + last.len(),
        }
    }

    #[inline]
    pub fn get(&self, index: u32) -> &T {
        let index = index as usize;
        &self.chunks[index / CHUNK_ITEM_COUNT][index % CHUNK_ITEM_COUNT]
    }

    #[inline]
    pub fn try_get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.chunks.get(index / CHUNK_ITEM_COUNT)?.get(index % CHUNK_ITEM_COUNT)
    }

    pub fn get_mut(&mut self, index: u32) -> &mut T {
        let index = index as usize;
        &mut self.chunks[index / CHUNK_ITEM_COUNT][index % CHUNK_ITEM_COUNT]
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    /// Appends an item and tells its index.
    pub fn push(&mut self, item: T) -> u32 {
        let index = u32::try_from(self.len()).expect("fewer than 2^32 filters on one shard");
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK_ITEM_COUNT => last.push(item),
            None => self.chunks.push(vec![item]),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK_ITEM_COUNT);
                chunk.push(item);
                self.chunks.push(chunk);
            }
        }
        index
    }

    /// Takes an item out. The last item, if it was another, now has the freed index.
    pub fn swap_remove(&mut self, index: u32) -> T {
        let last = self.chunks.last_mut().expect("an index is only given out for an item");
        let mut item = last.pop().expect("no chunk is empty");
        if last.is_empty() {
            self.chunks.pop();
        } else if self.chunks.len() == 1 {
            let only = &mut self.chunks[0];
            if only.capacity() > 16 && only.len() < only.capacity() / 4 {
                only.shrink_to(2 * only.len());
            }
        }
        if index as usize != self.len() {
            std::mem::swap(&mut item, self.get_mut(index));
        }
        if self.chunks.capacity() > 16 && self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
        item
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
            for step in 0..3 * CHUNK_ITEM_COUNT {
                if twin.is_empty() || random.u32(..8) < if growing { 6 } else { 1 } {
                    assert_eq!(chunks.push(step) as usize, twin.len());
                    twin.push(step);
                } else {
                    let index = random.usize(..twin.len());
                    assert_eq!(chunks.swap_remove(index as u32), twin.swap_remove(index));
                }
                assert_eq!(chunks.len(), twin.len());
            }
            assert!(chunks.iter().eq(&twin));
        }
        while !twin.is_empty() {
            assert_eq!(chunks.swap_remove(0), twin.swap_remove(0));
        }
        assert!(chunks.chunks.is_empty());
    }
}
