//! The subscriptions of one filter: nearly always one, sometimes ten thousand.
//!
//! One value is kept in place. More lie side by side in a `Vec`, in the order a delivery walks
//! them, and two permutations turn a slot into a position and back, so that removing by slot does
//! not search.

use super::Slot;

/// A list of one goes back in place only if its slot is below this: a list taken out of place must
/// hold entries for all slots below the one in use.
const SLOT_IN_PLACE_MAX: u32 = 4;

/// Free slots that are kept, and those that a removal forgets at most of what is beyond them and
/// beyond as many as there are values.
const FREE_KEPT: usize = 8;
const FORGOTTEN_PER_REMOVAL: usize = 64;

pub(super) enum SlotList<V> {
    One { slot: Slot, value: V },
    Many(Box<Many<V>>),
}

pub(super) struct Many<V> {
    values: Vec<V>,
    /// Longer than the highest slot in use; `values.len()` pairs are in use.
    pairs: Vec<Pair>,
}

/// Two permutations, inverse to each other, laid into each other.
struct Pair {
    /// The slot of the value at this position; past the values: a free slot.
    slot_at: u32,
    /// The position of the slot with this number.
    position_of: u32,
}

impl<V> SlotList<V> {
    pub(super) fn new(value: V) -> (SlotList<V>, Slot) {
        (SlotList::One { slot: Slot(0), value }, Slot(0))
    }

    pub(super) fn insert(&mut self, value: V) -> Slot {
        match self {
            SlotList::One { slot, .. } => {
                let slot = *slot;
                let many = SlotList::Many(Box::new(Many::with_first_slot(slot)));
                let SlotList::One { value: first, .. } = std::mem::replace(self, many) else {
                    unreachable!("matched as One above");
                };
                let SlotList::Many(many) = self else { unreachable!("replaced by Many above") };
                many.values.push(first);
                many.push(value)
            }
            SlotList::Many(many) => many.push(value),
        }
    }

    /// True if the list holds the value of this slot and no other.
    pub(super) fn is_only(&self, slot: Slot) -> bool {
        match self {
            SlotList::One { slot: only, .. } => *only == slot,
            SlotList::Many(many) => many.values.len() == 1 && many.position(slot).is_some(),
        }
    }

    pub(super) fn into_only(self) -> V {
        match self {
            SlotList::One { value, .. } => value,
            SlotList::Many(mut many) => {
                assert!(many.values.len() == 1);
                many.values.pop().expect("counted above")
            }
        }
    }

    /// Takes a value out, unless it is the only one: a list is never empty.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<V> {
        let SlotList::Many(many) = self else { return None };
        if many.values.len() < 2 {
            return None;
        }
        let removed = many.remove(slot)?;
        if let ([_], Some(&Pair { slot_at, .. })) = (&many.values[..], many.pairs.first())
            && slot_at < SLOT_IN_PLACE_MAX
        {
            let value = many.values.pop().expect("matched above");
            *self = SlotList::One { slot: Slot(slot_at), value };
        }
        Some(removed)
    }

    /// Reads where the list begins. The result means nothing; it is there to be waited for.
    #[inline]
    pub(super) fn touch(&self) -> u32 {
        u32::from(matches!(self, SlotList::One { .. }))
    }

    /// Visits the values from a slot on, as far as `budget` goes: a unit each. Gives the slot to go
    /// on from; None at the end. A value that stays in between is visited once, whatever comes and
    /// goes.
    pub(super) fn visit_some(
        &self,
        from: u32,
        budget: &mut usize,
        visit: &mut impl FnMut(&V),
    ) -> Option<u32> {
        let values = self.values();
        if from == 0 && values.len() <= *budget {
            *budget -= values.len();
            values.iter().for_each(visit);
            return None;
        }
        match self {
            SlotList::One { slot, value } => {
                let is_left = slot.0 >= from;
                if is_left && *budget == 0 {
                    return Some(from);
                }
                *budget -= usize::from(is_left);
                if is_left {
                    visit(value);
                }
                None
            }
            SlotList::Many(many) => many.visit_some(from, budget, visit),
        }
    }

    #[inline]
    pub(super) fn values(&self) -> &[V] {
        match self {
            SlotList::One { value, .. } => std::slice::from_ref(value),
            SlotList::Many(many) => &many.values,
        }
    }
}

impl<V> Many<V> {
    /// No value yet, but the first one pushed will have this slot.
    fn with_first_slot(slot: Slot) -> Many<V> {
        let mut pairs = Vec::with_capacity(slot.0 as usize + 2);
        pairs.extend((0..=slot.0).map(|index| Pair { slot_at: index, position_of: index }));
        let mut many = Many { values: Vec::with_capacity(2), pairs };
        many.swap(0, slot.0);
        many
    }

    fn push(&mut self, value: V) -> Slot {
        let position = self.values.len();
        if position == self.pairs.len() {
            let index = u32::try_from(position).expect("fewer than 2^32 subscriptions of a filter");
            assert!(index != Slot::NONE);
            self.pairs.push(Pair { slot_at: index, position_of: index });
        }
        self.values.push(value);
        Slot(self.pairs[position].slot_at)
    }

    fn position(&self, slot: Slot) -> Option<u32> {
        let position = self.pairs.get(slot.0 as usize)?.position_of;
        ((position as usize) < self.values.len()).then_some(position)
    }

    /// By slots, free ones included: a value keeps its slot, but not its position.
    fn visit_some(&self, from: u32, budget: &mut usize, visit: &mut impl FnMut(&V)) -> Option<u32> {
        for (slot, pair) in (from..).zip(self.pairs.get(from as usize..).unwrap_or(&[])) {
            if *budget == 0 {
                return Some(slot);
            }
            *budget -= 1;
            if let Some(value) = self.values.get(pair.position_of as usize) {
                visit(value);
            }
        }
        None
    }

    fn remove(&mut self, slot: Slot) -> Option<V> {
        let position = self.position(slot)?;
        let removed = self.values.swap_remove(position as usize);
        self.swap(position, self.values.len() as u32);
        self.forget_free_slots();
        Some(removed)
    }

    /// Lets two positions exchange their slots.
    fn swap(&mut self, left: u32, right: u32) {
        let left_slot = self.pairs[left as usize].slot_at;
        let right_slot = self.pairs[right as usize].slot_at;
        self.pairs[left as usize].slot_at = right_slot;
        self.pairs[right as usize].slot_at = left_slot;
        self.pairs[left_slot as usize].position_of = right;
        self.pairs[right_slot as usize].position_of = left;
    }

    /// Forgets some of the free slots above the highest one in use and gives memory back.
    fn forget_free_slots(&mut self) {
        for _ in 0..FORGOTTEN_PER_REMOVAL {
            let Some(last) = self.pairs.len().checked_sub(1) else { return };
            let is_much = self.pairs.len() > 2 * self.values.len() + FREE_KEPT;
            let place = self.pairs[last].position_of;
            if !is_much || (place as usize) < self.values.len() {
                break;
            }
            self.swap(place, last as u32);
            self.pairs.pop();
        }
        shrink(&mut self.pairs);
        shrink(&mut self.values);
    }
}

/// Gives memory back once three quarters of it are unused. What is left is moved: at a million that
/// takes a fraction of a millisecond.
fn shrink<T>(list: &mut Vec<T>) {
    if list.capacity() > 4 * list.len().max(FREE_KEPT) {
        list.shrink_to(2 * list.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &SlotList<u32>, twin: &[(Slot, u32)]) {
        let mut found = list.values().to_vec();
        let mut expected: Vec<u32> = twin.iter().map(|pair| pair.1).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        if let SlotList::Many(many) = list {
            for (index, pair) in many.pairs.iter().enumerate() {
                assert_eq!(many.pairs[pair.slot_at as usize].position_of as usize, index);
            }
        }
    }

    #[test]
    fn slots_stay_while_others_come_and_go() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..200 {
            let (mut list, first) = SlotList::new(0);
            let mut twin = vec![(first, 0)];
            for value in 1..400 {
                let growing = (value / 100) % 2 == 0;
                if twin.len() < 2 || random.u32(..10) < if growing { 8 } else { 2 } {
                    let slot = list.insert(value);
                    assert!(twin.iter().all(|pair| pair.0 != slot), "round {round}");
                    twin.push((slot, value));
                } else {
                    let (slot, value) = twin.swap_remove(random.usize(..twin.len()));
                    assert_eq!(list.remove(slot), Some(value));
                    if twin.len() > 1 {
                        assert_eq!(list.remove(slot), None, "a free slot has no value");
                    }
                }
                check(&list, &twin);
                assert_eq!(list.is_only(twin[0].0), twin.len() == 1);
            }
        }
    }

    #[test]
    fn a_list_of_one_is_never_emptied_by_remove() {
        let (mut list, slot) = SlotList::new(5);
        assert_eq!(list.remove(slot), None);
        assert!(list.is_only(slot));
        assert!(!list.is_only(Slot(1)));
        assert_eq!(list.into_only(), 5);
    }

    #[test]
    fn a_long_list_gives_its_memory_back() {
        let (mut list, first) = SlotList::new(0);
        let slots: Vec<Slot> = (1..10_000).map(|value| list.insert(value)).collect();
        for slot in slots.iter().skip(3).rev() {
            assert!(list.remove(*slot).is_some());
        }
        let SlotList::Many(many) = &list else { panic!("four values are left") };
        assert!(many.pairs.capacity() < 64, "{}", many.pairs.capacity());
        assert!(many.values.capacity() < 64, "{}", many.values.capacity());
        for slot in &slots[..3] {
            assert!(list.remove(*slot).is_some());
        }
        assert!(matches!(list, SlotList::One { slot, value: 0 } if slot == first));
    }

    #[test]
    fn no_removal_looks_at_more_than_some_free_slots() {
        const COUNT: usize = 20_000;
        let (mut list, first) = SlotList::new(0);
        let mut slots: Vec<Slot> = (1..COUNT as u32).map(|value| list.insert(value)).collect();
        let pairs = |list: &SlotList<u32>| match list {
            SlotList::Many(many) => many.pairs.len(),
            SlotList::One { .. } => 0,
        };
        // All but the highest go, then that one.
        let highest = slots.pop().expect("there are many");
        for slot in slots.drain(10_000..) {
            assert!(list.remove(slot).is_some());
            assert_eq!(pairs(&list), COUNT);
        }
        assert!(list.remove(highest).is_some());
        let mut before = pairs(&list);
        while let Some(slot) = slots.pop() {
            assert!(list.remove(slot).is_some());
            let now = pairs(&list);
            assert!(before - now <= FORGOTTEN_PER_REMOVAL || now == 0, "{before} {now}");
            before = now;
        }
        assert!(matches!(list, SlotList::One { slot, .. } if slot == first));
    }

    #[test]
    fn the_last_of_a_long_list_keeps_its_high_slot() {
        let (mut list, first) = SlotList::new(0);
        let slots: Vec<Slot> = (1..1_000).map(|value| list.insert(value)).collect();
        let (last, others) = slots.split_last().unwrap();
        assert_eq!(list.remove(first), Some(0));
        for slot in others {
            assert!(list.remove(*slot).is_some());
        }
        assert!(list.is_only(*last));
        assert_eq!(list.values(), [999]);
        let again = list.insert(7);
        assert!(again != *last);
        assert_eq!(list.remove(*last), Some(999));
        assert!(list.is_only(again));
    }
}
