//! What one hook is still to be told, in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::message::Message;

/// Events that wait for one hook. A failover makes about four; who cannot be told these for so long is better off with
/// the newest.
pub(super) const CAPACITY: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Arc<Message>>>,
    arrived: Notify,
}

impl Queue {
    /// Adds one. Returns the oldest if that has to give way.
    pub(super) fn push(&self, message: Arc<Message>) -> Option<Arc<Message>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = if waiting.len() == CAPACITY { waiting.pop_front() } else { None };
        waiting.push_back(message);
        self.arrived.notify_one();
        dropped
    }

    /// The oldest, when there is one. For one task; cancel safe.
    pub(super) async fn next(&self) -> Arc<Message> {
        loop {
            let oldest = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match oldest {
                Some(message) => return message,
                None => self.arrived.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Sender;
    use super::super::observer::Notice;
    use super::*;
    use crate::config::HookEvent;
    use crate::topology::status::ServiceStatus;

    #[tokio::test]
    async fn the_oldest_gives_way_and_the_others_stay_in_order() {
        let (queue, mut sender) = (Queue::default(), Sender::of_process());
        let mut dropped = Vec::new();
        for number in 0..CAPACITY + 2 {
            let notice = Notice::new(HookEvent::Trial, number.to_string());
            let message = Message::new(&notice, &ServiceStatus::unknown("a"), &mut sender);
            dropped.extend(queue.push(Arc::new(message)).map(|message| message.text.clone()));
        }
        assert_eq!(dropped, ["0", "1"]);
        for number in 2..CAPACITY + 2 {
            assert_eq!(queue.next().await.text, number.to_string());
        }
    }
}
