//! The state of one service in words and numbers, for `/status`, `/readyz`, `/metrics` and the log.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::{FailoverKind, FailoverRecord, OffsetLost};
use crate::addr::Endpoint;

/// A time of day for people, in milliseconds since 1970; written as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct WallTime(pub u64);

impl WallTime {
    /// The present time.
    pub fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms_of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        // Days to a date by the 400-year cycle that begins on a first of March, so that the leap day comes last.
        let days = days + 719_468;
        let (cycle, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = cycle * 400 + year + u64::from(month <= 2);
        let (s, ms) = (ms_of_day / 1000, ms_of_day % 1000);
        write!(f, "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
    }
}

impl FromStr for WallTime {
    type Err = String;

    /// What [`Display`](fmt::Display) writes, and nothing else of RFC 3339: what is read from there and written again is
    /// the same text.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |range: Range<usize>| text.get(range)?.parse::<u64>().ok();
        let parsed = || {
            let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
            let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
            let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
            // None: before 1970.
            let days = days.checked_sub(719_469)?;
            let seconds = ((days * 24 + number(11..13)?) * 60 + number(14..16)?) * 60 + number(17..19)?;
            Some(Self(seconds * 1000 + number(20..23)?))
        };
        parsed().filter(|time| time.to_string() == text).ok_or_else(|| format!("`{text}` is no time in UTC"))
    }
}

impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// What a service is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No master was confirmed since the start.
    Starting,
    /// A master is confirmed and all traffic flows.
    Stable,
    /// Writes, at least, wait for a master.
    Held,
    /// Waiting took longer than `hold_timeout`: commands are refused until a master is confirmed.
    Unavailable,
    /// The master is confirmed, and writes are refused because no majority of the Sentinels is in hearing.
    Fenced,
}

/// Whether one kind of traffic flows, in the words of `/status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowWord {
    /// Commands go to the node.
    Flowing,
    /// Commands wait.
    Held,
    /// Commands are refused.
    Refused,
}

impl From<super::Flow> for FlowWord {
    fn from(f: super::Flow) -> Self {
        match f {
            super::Flow::Flowing => Self::Flowing,
            super::Flow::Held => Self::Held,
            super::Flow::Refused => Self::Refused,
        }
    }
}

/// One kind of traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Where it goes.
    pub node: Option<SocketAddr>,
    /// Whether it does.
    pub flow: FlowWord,
}

/// A pause that an operator has ordered and that is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PauseStatus {
    /// Since when.
    pub since: WallTime,
    /// When it ends by itself; none: it lasts until it is ended.
    pub until: Option<WallTime>,
}

/// A replica of the service, as it answered when last asked for its role.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The node.
    pub node: SocketAddr,
    /// Its replication offset, when it last said.
    pub offset: Option<u64>,
    /// How many bytes that is behind what the master last said. The two are not asked at the same moment; none unless it
    /// follows the master.
    #[serde(default)]
    pub behind: Option<u64>,
    /// `connected`, `not connected`, `replica of ADDR`, `says master`, `refused`, `silent`, `not asked yet`, or its error.
    pub link: String,
}

/// A Sentinel and what it says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SentinelStatus {
    /// Where it is asked.
    pub endpoint: Endpoint,
    /// Whether another Sentinel told of it; otherwise it is configured.
    pub learned: bool,
    /// Whether it is subscribed to and answers.
    pub up: bool,
    /// The master it names.
    pub master: Option<SocketAddr>,
    /// The config epoch it names it with.
    pub epoch: Option<u64>,
    /// Whether it cannot reach that master (`s_down` or `o_down`).
    #[serde(default)]
    pub master_down: bool,
    /// Whether it says that it is failing over (`failover_in_progress`).
    #[serde(default)]
    pub failing_over: bool,
    /// Whether it is in TILT, in which it takes no notice of what is down.
    #[serde(default)]
    pub tilt: bool,
    /// When it last answered a poll; none if it has not yet.
    #[serde(default)]
    pub heard: Option<WallTime>,
    /// What is wrong, in its own words where it answers: `connect refused`, `NOAUTH …`, `does not know this name`.
    pub error: Option<String>,
}

/// The state of one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub service: String,
    /// What it is doing.
    pub phase: Phase,
    /// The master last confirmed.
    pub master: Option<SocketAddr>,
    /// Its `run_id`, where it was said.
    pub run_id: Option<String>,
    /// Its replication offset, when it last said.
    #[serde(default)]
    pub offset: Option<u64>,
    /// +1 each time the confirmed master changes; 0 before the first.
    pub generation: u64,
    /// Config epoch the master was confirmed with; none for a static service and before the first.
    pub config_epoch: Option<u64>,
    /// Whether the master was committed eagerly and Sentinels have yet to confirm it.
    pub provisional: bool,
    /// Commands flagged `readonly`.
    pub reads: FlowStatus,
    /// All other commands.
    pub writes: FlowStatus,
    /// Why traffic does not flow, one sentence; empty when it does.
    pub why: String,
    /// Since when `phase` is what it is.
    pub since: WallTime,
    /// The pause that is on: reads and writes wait, whatever `phase` is.
    #[serde(default)]
    pub paused: Option<PauseStatus>,
    /// Whether every reachable node says replica of the master and every Sentinel in hearing has noticed. Before that
    /// Sentinel may promote a node that never followed it, or demote one that was just promoted.
    pub settled: bool,
    /// What keeps it from being settled.
    #[serde(default)]
    pub unsettled: Option<String>,
    /// The replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// The Sentinels; empty for a static service.
    pub sentinels: Vec<SentinelStatus>,
    /// Finished records by kind, in the order of [`super::record::FAILOVER_KINDS`], since the start.
    pub failovers_total: Vec<(FailoverKind, u64)>,
    /// Milliseconds for which writes did not flow, after the first master was confirmed, since the start.
    pub writes_held_ms_total: u64,
    /// Likewise reads.
    pub reads_held_ms_total: u64,
    /// How often the master came back under its address as another process: its data may be gone.
    pub run_id_changes_total: u64,
    /// Bytes of the replication stream that are lost for certain, over all failovers since the start.
    #[serde(default)]
    pub lost_bytes_total: u64,
    /// What the last failover lost that changed the master or may have lost something.
    #[serde(default)]
    pub last_loss: Option<OffsetLost>,
    /// The last failovers, oldest first.
    pub records: Vec<Arc<FailoverRecord>>,
}

impl ServiceStatus {
    /// Before control has said anything.
    pub fn unknown(service: &str) -> Self {
        let held = FlowStatus { node: None, flow: FlowWord::Held };
        Self {
            service: service.to_owned(),
            phase: Phase::Starting,
            master: None,
            run_id: None,
            offset: None,
            generation: 0,
            config_epoch: None,
            provisional: false,
            reads: held,
            writes: held,
            why: "no master is known yet".to_owned(),
            since: WallTime::now(),
            paused: None,
            settled: false,
            unsettled: None,
            replicas: Vec::new(),
            sentinels: Vec::new(),
            failovers_total: super::record::FAILOVER_KINDS.iter().map(|k| (*k, 0)).collect(),
            writes_held_ms_total: 0,
            reads_held_ms_total: 0,
            run_id_changes_total: 0,
            lost_bytes_total: 0,
            last_loss: None,
            records: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_are_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_767_225_600_001, "2026-01-01T00:00:00.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(WallTime(ms).to_string(), text);
            assert_eq!(text.parse(), Ok(WallTime(ms)));
        }
        for wrong in [
            "",
            "2026-02-29T00:00:00.000Z",
            "1969-12-31T23:59:59.999Z",
            "1970-01-00T00:00:00.000Z",
            "0000-01-01T00:00:00.000Z",
            "2026-01-01T00:00:00.000Z ",
            "2026-01-01T00:00:00.+00Z",
            "2026-13-01T00:00:00.000Z",
            "2026-01-01T00:00:00Z",
        ] {
            assert!(wrong.parse::<WallTime>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn wall_times_are_read_as_they_are_written() {
        let (before, time, after) = (SystemTime::now(), WallTime::now(), SystemTime::now());
        let ms = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_millis();
        assert!((ms(before)..=ms(after)).contains(&time.0.into()), "{time}");
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(serde_json::from_str::<WallTime>(&json).unwrap(), time);
        assert!(serde_json::from_str::<WallTime>("\"yesterday\"").is_err());
    }

    /// The beginning and the end of each month, of four centuries and more.
    #[test]
    fn wall_times_follow_the_calendar() {
        let mut days = 0;
        for year in 1970..2405 {
            let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
            let february = if leap { 29 } else { 28 };
            for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
                for day in (1..=length).filter(|day| *day <= 2 || *day >= 28) {
                    let ms = (days + day - 1) * 86_400_000 + 45_296_789;
                    let text = format!("{year}-{month:02}-{day:02}T12:34:56.789Z");
                    assert_eq!(WallTime(ms).to_string(), text);
                    assert_eq!(text.parse(), Ok(WallTime(ms)));
                }
                assert!(format!("{year}-{month:02}-{}T00:00:00.000Z", length + 1).parse::<WallTime>().is_err());
                days += length;
            }
        }
        for wrong in [
            "2026-11-21 12:34:56.789Z",
            "2026-11-21T12:34:56.789+",
            "2026-11-21T24:00:00.000Z",
            "２026-11-21T12:34:56.7Z",
        ] {
            assert!(wrong.parse::<WallTime>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_flows_is_called_so() {
        use crate::topology::Flow;
        let words = [(Flow::Flowing, "flowing"), (Flow::Held, "held"), (Flow::Refused, "refused")];
        for (flow, word) in words {
            assert_eq!(serde_json::to_value(FlowWord::from(flow)).unwrap(), word);
        }
    }

    #[test]
    fn a_status_is_json() {
        let json = serde_json::to_value(ServiceStatus::unknown("main")).unwrap();
        assert_eq!(json["phase"], "starting");
        assert_eq!(json["writes"]["flow"], "held");
        assert_eq!(json["failovers_total"][0][0], "planned");
    }
}
