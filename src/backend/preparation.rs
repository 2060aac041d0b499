//! What a worker still has to do on a new master before held writes go there.
//!
//! A message published to subscribers that are not back yet, or a transaction that calls a script that is not there
//! yet, cannot be made good later. So control lets writes flow when every worker has reported, or after a short time.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::topology::Link;

/// The account of one worker and service.
#[derive(Debug)]
pub struct Preparation {
    link: Arc<Link>,
    generation: Cell<u64>,
    outstanding: Cell<usize>,
}

/// Something that has to be done, until it is dropped: done, or given up.
#[derive(Debug)]
pub struct Outstanding(Rc<Preparation>);

impl Preparation {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, generation: Cell::new(0), outstanding: Cell::new(0) }
    }

    /// From now on it is about the master of this generation. What is returned is kept until all that has to be done is
    /// known.
    pub fn begin(self: &Rc<Self>, generation: u64) -> Outstanding {
        self.generation.set(generation);
        self.expect()
    }

    /// One thing more.
    pub fn expect(self: &Rc<Self>) -> Outstanding {
        self.outstanding.set(self.outstanding.get() + 1);
        Outstanding(Rc::clone(self))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        let left = self.0.outstanding.get() - 1;
        self.0.outstanding.set(left);
        if left == 0 {
            self.0.link.report_prepared(self.0.generation.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_when_the_last_thing_is_done() {
        let link = Arc::new(Link::default());
        let preparation = Rc::new(Preparation::new(Arc::clone(&link)));
        let before = preparation.expect();
        let all = preparation.begin(4);
        let one = preparation.expect();
        drop(all);
        drop(one);
        assert_eq!(link.prepared(), 0, "something from before is still missing");
        drop(before);
        assert_eq!(link.prepared(), 4);
    }
}
