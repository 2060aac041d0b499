//! Waking a task from another task of the same thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// A wake-up for one task by others of its thread; several before it is taken count once.
///
/// `tokio::sync::Notify` does the same across threads for the price of atomics and a lock at each wait; this one is
/// waited on once per command.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the task that waits, or lets the next wait end at once.
    pub fn raise(&self) {
        if !self.raised.replace(true)
            && let Some(waker) = self.waiter.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Ready once raised; takes the signal. Remembers the last caller's waker only: one task waits.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.raised.replace(false) {
            return Poll::Ready(());
        }
        let mut waiter = self.waiter.borrow_mut();
        match waiter.as_ref() {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *waiter = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits until raised. Cancel safe.
    pub async fn wait(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[tokio::test]
    async fn wakes_a_waiting_task_and_remembers_a_raise_before_the_wait() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let signal = Rc::new(Signal::default());
                signal.raise();
                signal.raise();
                signal.wait().await;
                let waiting = tokio::task::spawn_local({
                    let signal = Rc::clone(&signal);
                    async move { signal.wait().await }
                });
                tokio::task::yield_now().await;
                assert!(!waiting.is_finished());
                signal.raise();
                waiting.await.unwrap();
            })
            .await;
    }
}
