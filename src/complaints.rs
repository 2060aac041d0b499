//! Lines of the log that many clients can cause: the first is written, then none for a while, then how many were not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two lines about the same.
const PAUSE: Duration = Duration::from_secs(10);

/// One cause of lines.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    /// Whether one may be said now; then with the number of those that were not, since the last.
    pub fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_many_complaints_few_are_said_and_all_counted() {
        let log = Complaints::default();
        assert_eq!(log.due(), Some(0));
        assert_eq!([log.due(), log.due()], [None, None]);
        tokio::time::advance(PAUSE).await;
        assert_eq!(log.due(), Some(2));
        assert_eq!(log.due(), None);
    }
}
