//! Temporary.
use hashbrown::HashMap;
pub struct MatchCache<V> {
    map: HashMap<Vec<u8>, V>,
    capacity: usize,
}
impl<V: Clone> MatchCache<V> {
    pub fn new(capacity: usize, _seed: u64) -> Self {
        Self { map: HashMap::new(), capacity }
    }
    pub fn get(&mut self, subject: &[u8]) -> Option<&V> {
        self.map.get(subject)
    }
    pub fn insert(&mut self, subject: &[u8], value: V) {
        if self.map.len() >= self.capacity {
            self.map.clear();
        }
        self.map.insert(subject.to_vec(), value);
    }
    pub fn evict_literal(&mut self, subject: &[u8]) {
        self.map.remove(subject);
    }
    pub fn evict_matching(&mut self, _filter: &[u8]) {
        self.map.clear();
    }
}
