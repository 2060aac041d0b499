//! The terminal while `top` draws in it: on a screen of its own, keys as they are pressed. Left as it was found.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What somebody wants by a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// `q`, Ctrl-C, Ctrl-D.
    Leave,
    /// Another one, or none for as long as the interval.
    Other,
}

/// See the module.
pub(super) struct Terminal {
    before: Termios,
}

/// Screen of its own, no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const ROWS: usize = 24;
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

impl Terminal {
    /// `patience`: how long [`Self::key`] waits for one, in steps of a tenth of a second.
    pub(super) fn open(patience: Duration) -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        heed_signals(before.clone())?;
        let mut raw = before.clone();
        // Signals by keys too: left in the middle, the terminal would stay as it is.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = (patience.as_millis() / 100).clamp(1, 255) as u8;
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        let terminal = Self { before };
        say(ENTER)?;
        Ok(terminal)
    }

    /// Draws over what was there, as much as there is room for, and the last line at the bottom.
    pub(super) fn draw(&mut self, text: &str, last: &str) -> io::Result<()> {
        let rows = tcgetwinsize(io::stdout()).map(|size| usize::from(size.ws_row)).unwrap_or_default();
        // Some terminals do not say.
        let rows = if rows < 2 { ROWS } else { rows };
        let mut drawn = HOME.to_owned();
        for line in text.lines().take(rows - 1) {
            drawn += &format!("{line}{CLEAR_LINE}\r\n");
        }
        say(&format!("{drawn}{CLEAR_BELOW}\x1b[{rows};1H\x1b[2m{last}\x1b[0m"))
    }

    /// The next key.
    pub(super) fn key(&mut self) -> io::Result<Key> {
        let mut keys = [0; 16];
        match io::stdin().read(&mut keys) {
            Ok(n) if keys[..n].iter().any(|key| b"qQ\x03\x04".contains(key)) => Ok(Key::Leave),
            Ok(_) => Ok(Key::Other),
            // The window's size has changed, perhaps.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Key::Other),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        leave(&mut io::stdout().lock(), &self.before);
    }
}

fn leave(stdout: &mut io::StdoutLock<'_>, before: &Termios) {
    // There is nobody left to be told if it fails.
    let _ = stdout.write_all(LEAVE.as_bytes()).and_then(|()| stdout.flush());
    let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
}

/// Ends the process at a signal as at a key, but for the exit code, which is a shell's for that signal. To be called while
/// there is one thread.
fn heed_signals(before: Termios) -> io::Result<()> {
    let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]);
    // In every thread that is started from now on, too: so it comes to the one that waits for it.
    ends.thread_block()?;
    let wait = move || {
        let Ok(signal) = ends.wait() else { return };
        let code = 128 + signal as i32;
        // A terminal that is stopped takes nothing, and whoever draws on it holds the output.
        let _ = thread::Builder::new().spawn(move || {
            thread::sleep(Duration::from_secs(1));
            std::process::exit(code)
        });
        // Held to the end: nothing is drawn behind this.
        let mut stdout = io::stdout().lock();
        leave(&mut stdout, &before);
        std::process::exit(code)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
