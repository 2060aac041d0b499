//! A timer in a file descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::listen::readable;

/// A timer that the event loop waits for as it does for sockets, timerfd_create(2).
///
/// tokio's own timers become a timeout of `epoll_wait`, which the kernel sets up whenever the loop goes to sleep and takes
/// back when it is woken, twice for a command that is alone (`docs/performance.md`). What is always awaited is better
/// awaited here; what hardly ever is, by tokio.
#[derive(Debug)]
pub struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// A timer. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel's: no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        readable(fd).map(Self)
    }

    /// Waits for so long; for one that waits at a time. Cancel safe.
    ///
    /// # Errors
    /// The kernel's. None is known for what is passed to it; one that came must not make a busy loop of the caller.
    pub async fn sleep(&self, time: Duration) -> io::Result<()> {
        // Zero would be never.
        let time = time.max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        // Also forgets that a time before this one is over.
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut [0; 8])?)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test]
    async fn waits_for_as_long_as_it_is_told_and_no_less() {
        let timer = Timer::new().unwrap();
        for ms in [30, 0, 10] {
            let (time, began) = (Duration::from_millis(ms), Instant::now());
            timer.sleep(time).await.unwrap();
            assert!(began.elapsed() >= time);
        }
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_end_the_next_one() {
        let timer = Timer::new().unwrap();
        let short = Duration::from_millis(5);
        // Given up before its end.
        assert!(timeout(short, timer.sleep(Duration::from_secs(60))).await.is_err());
        // Over, and nobody has looked.
        {
            let mut sleep = Box::pin(timer.sleep(short));
            assert!(futures_util::poll!(&mut sleep).is_pending());
            std::thread::sleep(2 * short);
            tokio::task::yield_now().await;
        }
        let (time, began) = (Duration::from_millis(50), Instant::now());
        timer.sleep(time).await.unwrap();
        assert!(began.elapsed() >= time);
    }
}
