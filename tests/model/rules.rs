//! The rules that the model can do without, to see what they are for. None of this is known to the machine: what a rule
//! would have kept away from it is done around it.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rules {
    /// Replies to writes that arrive while writes are held are parked. Without it: delivered at once.
    pub(crate) parking: bool,
    /// Another master counts when a second Sentinel names it. Without it: what one says, all are taken to have said.
    pub(crate) second_voice: bool,
    /// What Sentinels publish before they name another master is heard. Without it: only the end is.
    pub(crate) warnings: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self { parking: true, second_voice: true, warnings: true };
}
