//! The queue of an origin whose servers are at their limit of concurrent requests (`max_connections`): first
//! in, first out, for fills and proxied requests alike.
//!
//! A request that ends serves the queue. Nothing overtakes: a new request serves the waiting ones before it
//! looks for a place itself. A request that waits for a certain server (of its session) doesn't block others.
//! The queue knows nothing of servers: an entry knows how it is served.

use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

/// An entry of the queue.
pub(crate) trait QueueEntry: fmt::Debug {
    /// A place that its receiver no longer wants. Dropping it may serve the queue again.
    type Left;

    /// Serves the entry if that is possible now, even if it is no longer wanted.
    fn serve(&mut self) -> ServeOutcome<Self::Left>;

    /// Returns true if it waits for a certain server.
    fn is_choosy(&self) -> bool;
}

impl<E: QueueEntry + ?Sized> QueueEntry for Box<E> {
    type Left = E::Left;

    fn serve(&mut self) -> ServeOutcome<Self::Left> {
        (**self).serve()
    }

    fn is_choosy(&self) -> bool {
        (**self).is_choosy()
    }
}

/// The result of serving an entry.
pub(crate) enum ServeOutcome<L> {
    /// It leaves the queue.
    Done,
    /// It leaves the queue, and its place is not wanted any more.
    Left(L),
    /// There is no place for it yet.
    NotYet,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct WaitQueue<W> {
    /// The number of entries in `queue`, and of those about to join: read without the lock when a request
    /// ends.
    waiting: AtomicUsize,
    queue: Mutex<QueueState<W>>,
}

#[derive(Debug)]
struct QueueState<W> {
    waiting: VecDeque<(u64, W)>,
    next: u64,
}

impl<W> Default for WaitQueue<W> {
    fn default() -> Self {
        let queue = QueueState { waiting: VecDeque::new(), next: 0 };
        Self { waiting: AtomicUsize::new(0), queue: Mutex::new(queue) }
    }
}

impl<W: QueueEntry> WaitQueue<W> {
    /// Returns true if the queue is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// Adds an entry, unless it is served at once. `None` if there are `most` entries already.
    pub(crate) fn join(&self, mut waiter: W, most: usize) -> Option<QueueJoin> {
        // Incremented first, so that a place that becomes free before the lock is taken is not lost.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut over = Vec::new();
        let joined = {
            let mut queue = self.queue.lock();
            self.serve_all(&mut queue, &mut over);
            match waiter.serve() {
                ServeOutcome::NotYet if queue.waiting.len() < most => {
                    let ticket = queue.next;
                    queue.next += 1;
                    queue.waiting.push_back((ticket, waiter));
                    return Some(QueueJoin::Waits(ticket));
                }
                ServeOutcome::NotYet => None,
                ServeOutcome::Done => Some(QueueJoin::Served),
                ServeOutcome::Left(left) => {
                    over.push(left);
                    Some(QueueJoin::Served)
                }
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        joined
    }

    /// Serves the entries that can be served now.
    pub(crate) fn serve(&self) {
        if self.is_empty() {
            return;
        }
        let mut over = Vec::new();
        self.serve_all(&mut self.queue.lock(), &mut over);
        // Dropped after the lock is released: that may serve the queue again.
        drop(over);
    }

    /// Removes an entry, if it is still there.
    pub(crate) fn leave(&self, ticket: u64) {
        let left = {
            let mut queue = self.queue.lock();
            let place = queue.waiting.iter().position(|(t, _)| *t == ticket);
            place.and_then(|place| queue.waiting.remove(place))
        };
        if left.is_some() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn serve_all(&self, queue: &mut QueueState<W>, over: &mut Vec<W::Left>) {
        // If an entry that takes any server was not served, no later one of that kind can be.
        let mut nothing_left = false;
        let before = queue.waiting.len();
        queue.waiting.retain_mut(|(_, waiter)| {
            if nothing_left && !waiter.is_choosy() {
                return true;
            }
            match waiter.serve() {
                ServeOutcome::Done => false,
                ServeOutcome::Left(left) => {
                    over.push(left);
                    false
                }
                ServeOutcome::NotYet => {
                    nothing_left |= !waiter.is_choosy();
                    true
                }
            }
        });
        self.waiting.fetch_sub(before - queue.waiting.len(), Ordering::SeqCst);
    }
}

/// The result of joining.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QueueJoin {
    /// It was served at once.
    Served,
    /// It waits, under this number.
    Waits(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, rc::Rc};

    /// The available places, by kind, and the entries that got one.
    #[derive(Debug, Default)]
    struct World {
        stock: [usize; 3],
        got: Vec<u32>,
    }

    #[derive(Debug)]
    struct Person {
        name: u32,
        /// The kind that it waits for; `None`: any.
        kind: Option<usize>,
        world: Rc<RefCell<World>>,
    }

    impl QueueEntry for Person {
        type Left = ();

        fn serve(&mut self) -> ServeOutcome<()> {
            let mut world = self.world.borrow_mut();
            let kind = self.kind.or_else(|| world.stock.iter().position(|n| *n > 0));
            match kind.filter(|kind| world.stock[*kind] > 0) {
                Some(kind) => {
                    world.stock[kind] -= 1;
                    world.got.push(self.name);
                    ServeOutcome::Done
                }
                None => ServeOutcome::NotYet,
            }
        }

        fn is_choosy(&self) -> bool {
            self.kind.is_some()
        }
    }

    #[test]
    fn first_come_first_served() {
        let (world, line) = (Rc::new(RefCell::new(World::default())), WaitQueue::default());
        let join = |name, kind| line.join(Person { name, kind, world: world.clone() }, 4);
        assert_eq!(join(1, None), Some(QueueJoin::Waits(0)));
        assert_eq!(join(2, Some(1)), Some(QueueJoin::Waits(1)));
        assert_eq!(join(3, None), Some(QueueJoin::Waits(2)));
        assert_eq!(join(4, None), Some(QueueJoin::Waits(3)));
        assert_eq!(join(5, None), None, "the line is full");
        world.borrow_mut().stock[0] = 1;
        line.serve();
        assert_eq!(world.borrow().got, [1]);
        // A new entry serves the waiting ones first, and gets nothing that they could have had.
        world.borrow_mut().stock[0] = 1;
        assert_eq!(join(6, None), Some(QueueJoin::Waits(4)));
        assert_eq!(world.borrow().got, [1, 3]);
        line.leave(3);
        line.leave(3);
        // The entry that waits for another kind has blocked no other, and still waits.
        world.borrow_mut().stock = [2, 0, 0];
        line.serve();
        assert_eq!(world.borrow().got, [1, 3, 6]);
        assert!(!line.is_empty());
        world.borrow_mut().stock[1] = 1;
        line.serve();
        assert_eq!(world.borrow().got, [1, 3, 6, 2]);
        assert!(line.is_empty());
        assert_eq!(join(7, None), Some(QueueJoin::Served), "one of the first kind was left");
        assert!(line.is_empty());
    }
}
