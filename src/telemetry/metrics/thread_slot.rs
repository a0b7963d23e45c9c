//! The slot of the current thread in data that is kept per thread, so that no two cores write to one cache
//! line.
//!
//! Threads are numbered at their first call, for the life of the process: those that serve requests come
//! first and never end. As long as there are slots, each thread has one of its own; all further threads share
//! the last one.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
    thread::available_parallelism,
};

/// The number of threads numbered so far.
static NEXT_NUMBER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The thread's number; `usize::MAX` until it has one.
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// A slot's number, and a flag that is true if other threads may use it at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ThreadSlot {
    pub(crate) number: usize,
    pub(crate) shared: bool,
}

/// The current thread's slot among `places` of them, at least one.
pub(crate) fn current_slot(places: usize) -> ThreadSlot {
    let last = places.saturating_sub(1);
    let number = thread_number();
    ThreadSlot { number: number.min(last), shared: number >= last }
}

/// The number of slots: more than cores, since the configuration may ask for more threads than cores.
pub(crate) fn wanted_slots() -> usize {
    available_parallelism().map_or(2, usize::from).saturating_mul(2).clamp(8, 256) + 1
}

fn thread_number() -> usize {
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT_NUMBER.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// A value that shares a cache line with no other; processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CacheAligned<T>(pub(crate) T);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, thread};

    #[test]
    fn each_thread_has_a_place_of_its_own_while_there_are_any() {
        let asked = |places| {
            let threads: Vec<_> = (0..20).map(|_| thread::spawn(move || current_slot(places))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        };
        let many = asked(1 << 30);
        assert!(many.iter().all(|place| !place.shared));
        assert_eq!(many.iter().map(|place| place.number).collect::<HashSet<_>>().len(), 20);
        assert!(asked(1).iter().all(|place| *place == ThreadSlot { number: 0, shared: true }));
        let few = asked(2);
        assert!(few.iter().all(|place| place.shared == (place.number == 1)));
    }

    #[test]
    fn a_thread_keeps_its_place() {
        assert_eq!(current_slot(1 << 30), current_slot(1 << 30));
    }
}
