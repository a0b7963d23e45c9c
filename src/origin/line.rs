//! The line before an origin whose servers have all that they may have under way: first come, first served, fills and
//! proxied requests alike.
//!
//! Whoever leaves a place serves the line. Nobody overtakes: a newcomer serves those who wait before he looks for
//! himself. One who waits for a certain server (a session's) holds up nobody who doesn't. The line knows nothing of
//! servers: who waits brings along how he is served.

use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Somebody in the line.
pub(super) trait Waiting {
    /// What is left over where nobody takes it. It may serve the line when it is dropped.
    type Left;

    /// Serves him if that is possible now, whether or not he still wants it.
    fn serve(&mut self) -> Served<Self::Left>;

    /// Whether he waits for something that others don't wait for.
    fn is_choosy(&self) -> bool;
}

/// How it went.
pub(super) enum Served<L> {
    /// He is out of the line.
    Done,
    /// He had left; this is over.
    Left(L),
    /// There is nothing for him yet.
    NotYet,
}

/// The line.
#[derive(Debug)]
pub(super) struct Line<W> {
    /// Those in `queue`, and those about to join: read by whoever leaves a place, before the lock is.
    waiting: AtomicUsize,
    queue: Mutex<Queue<W>>,
}

#[derive(Debug)]
struct Queue<W> {
    waiting: VecDeque<(u64, W)>,
    next: u64,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        let queue = Queue { waiting: VecDeque::new(), next: 0 };
        Self { waiting: AtomicUsize::new(0), queue: Mutex::new(queue) }
    }
}

impl<W: Waiting> Line<W> {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// Joins, unless he is served at once. `None` where more than `most` would wait.
    pub(super) fn join(&self, mut waiter: W, most: usize) -> Option<Joined> {
        // Said first: a place that is left between the look and the lock is not lost.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut over = Vec::new();
        let joined = {
            let mut queue = self.queue.lock();
            self.serve_all(&mut queue, &mut over);
            match waiter.serve() {
                Served::NotYet if queue.waiting.len() < most => {
                    let ticket = queue.next;
                    queue.next += 1;
                    queue.waiting.push_back((ticket, waiter));
                    return Some(Joined::Waits(ticket));
                }
                Served::NotYet => None,
                Served::Done => Some(Joined::Served),
                Served::Left(left) => {
                    over.push(left);
                    Some(Joined::Served)
                }
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        joined
    }

    /// Serves those who can be served now.
    pub(super) fn serve(&self) {
        if self.is_empty() {
            return;
        }
        let mut over = Vec::new();
        self.serve_all(&mut self.queue.lock(), &mut over);
        // Dropped here, without the lock: it may serve the line again.
        drop(over);
    }

    /// Leaves the line, where he is still in it.
    pub(super) fn leave(&self, ticket: u64) {
        let left = {
            let mut queue = self.queue.lock();
            let place = queue.waiting.iter().position(|(t, _)| *t == ticket);
            place.and_then(|place| queue.waiting.remove(place))
        };
        if left.is_some() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn serve_all(&self, queue: &mut Queue<W>, over: &mut Vec<W::Left>) {
        // What one who takes anything could not get, the next one can't either.
        let mut nothing_left = false;
        let before = queue.waiting.len();
        queue.waiting.retain_mut(|(_, waiter)| {
            if nothing_left && !waiter.is_choosy() {
                return true;
            }
            match waiter.serve() {
                Served::Done => false,
                Served::Left(left) => {
                    over.push(left);
                    false
                }
                Served::NotYet => {
                    nothing_left |= !waiter.is_choosy();
                    true
                }
            }
        });
        self.waiting.fetch_sub(before - queue.waiting.len(), Ordering::SeqCst);
    }
}

/// How joining went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// He was served at once.
    Served,
    /// He waits, under this number.
    Waits(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, rc::Rc};

    /// What there is, by kind, and who got some.
    #[derive(Default)]
    struct World {
        stock: [usize; 3],
        got: Vec<u32>,
    }

    struct Person {
        name: u32,
        /// The kind that he wants; any, where there is none.
        kind: Option<usize>,
        world: Rc<RefCell<World>>,
    }

    impl Waiting for Person {
        type Left = ();

        fn serve(&mut self) -> Served<()> {
            let mut world = self.world.borrow_mut();
            let kind = self.kind.or_else(|| world.stock.iter().position(|n| *n > 0));
            match kind.filter(|kind| world.stock[*kind] > 0) {
                Some(kind) => {
                    world.stock[kind] -= 1;
                    world.got.push(self.name);
                    Served::Done
                }
                None => Served::NotYet,
            }
        }

        fn is_choosy(&self) -> bool {
            self.kind.is_some()
        }
    }

    #[test]
    fn first_come_first_served() {
        let (world, line) = (Rc::new(RefCell::new(World::default())), Line::default());
        let join = |name, kind| line.join(Person { name, kind, world: world.clone() }, 4);
        assert_eq!(join(1, None), Some(Joined::Waits(0)));
        assert_eq!(join(2, Some(1)), Some(Joined::Waits(1)));
        assert_eq!(join(3, None), Some(Joined::Waits(2)));
        assert_eq!(join(4, None), Some(Joined::Waits(3)));
        assert_eq!(join(5, None), None, "the line is full");
        world.borrow_mut().stock[0] = 1;
        line.serve();
        assert_eq!(world.borrow().got, [1]);
        // A newcomer serves those who wait first, and gets nothing that they could have had.
        world.borrow_mut().stock[0] = 1;
        assert_eq!(join(6, None), Some(Joined::Waits(4)));
        assert_eq!(world.borrow().got, [1, 3]);
        line.leave(3);
        line.leave(3);
        // The one who waits for another kind has held up nobody, and still waits.
        world.borrow_mut().stock = [2, 0, 0];
        line.serve();
        assert_eq!(world.borrow().got, [1, 3, 6]);
        assert!(!line.is_empty());
        world.borrow_mut().stock[1] = 1;
        line.serve();
        assert_eq!(world.borrow().got, [1, 3, 6, 2]);
        assert!(line.is_empty());
        assert_eq!(join(7, None), Some(Joined::Served), "one of the first kind was left");
        assert!(line.is_empty());
    }
}
