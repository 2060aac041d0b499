//! The command at the front of the read buffer: found there, put back there, sent its way, answered.

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::{Command, REFUSED_PAUSE, Session, Step, Wait};
use crate::backend::Again;
use crate::metrics::{CloseReason, Limit, ProxyHeader, TlsHandshake};
use crate::net::is_header_line;
use crate::resp::{Kind, OwnError, ProtocolError, RequestScanner, Scan, args, encode_command, inline_to_command};
use crate::router::{self, Pinned, Replies, Route};

/// How a TLS handshake begins (RFC 8446, 5.1): a record of type 22.
const TLS_HANDSHAKE: &[u8] = &[22, 3];

impl Session {
    /// Puts commands that came back in front of what the client has sent since.
    pub(super) fn reclaim(&mut self, again: &[Again]) {
        let mut buf = BytesMut::with_capacity(again.iter().map(|a| a.bytes.len()).sum::<usize>() + self.buf.len());
        for a in again {
            if a.silent && self.state.replies == Replies::On {
                // It was the one behind a SKIP; its reply, if it came now, would be taken for the next command's.
                buf.extend_from_slice(&encode_command(&["CLIENT", "REPLY", "SKIP"]));
            }
            buf.extend_from_slice(&a.bytes);
        }
        self.returned = self.down.take_returned().into_iter().chain(self.returned).min();
        let before = self.counted;
        let mut rest = &buf[..];
        let mut scanner = RequestScanner::new(usize::MAX);
        while let Ok(Scan::Command { len, .. }) = scanner.scan(rest) {
            self.counted += 1;
            rest = &rest[len..];
        }
        self.pool.context.stats.commands_resent.add((self.counted - before).into());
        buf.extend_from_slice(&self.buf);
        self.buf = buf;
        // Its place belonged to the front of the old buffer.
        self.renew_scanner();
    }

    pub(super) fn renew_scanner(&mut self) {
        self.scanner = RequestScanner::new(self.terms.limits.bulk_bytes);
    }

    pub(super) fn next_command(&mut self) -> Step {
        if self.buf.is_empty() && !self.eof {
            return Step::Wait(Wait::INPUT);
        }
        match self.scanner.scan(&self.buf) {
            Ok(Scan::Incomplete) if self.eof => {
                if self.down.owed() == 0 {
                    Step::Close(CloseReason::Client)
                } else {
                    Step::Wait(Wait::REPLIES)
                }
            }
            // The scanner would wait for the end of the line.
            Ok(Scan::Incomplete) if self.buf.starts_with(TLS_HANDSHAKE) && self.down.owed() == 0 => self.refuse_tls(),
            Ok(Scan::Incomplete) => self.begin_streaming().unwrap_or(Step::Wait(Wait::INPUT)),
            Ok(Scan::Empty { len }) => {
                let _ = self.buf.split_to(len);
                Step::Done
            }
            Ok(Scan::Inline { len }) => {
                let line = self.buf.split_to(len);
                if line.starts_with(TLS_HANDSHAKE) && self.down.owed() == 0 {
                    return self.refuse_tls();
                }
                if is_header_line(&line) && self.down.owed() == 0 {
                    return self.refuse_header();
                }
                match inline_to_command(&line) {
                    Ok(Some(command)) => {
                        let mut buf = BytesMut::from(&command[..]);
                        buf.extend_from_slice(&self.buf);
                        self.buf = buf;
                        Step::Done
                    }
                    Ok(None) => Step::Done,
                    Err(e) => {
                        // Kept in front: the error is answered when nothing is owed, and this is asked again till then.
                        let mut buf = line;
                        buf.extend_from_slice(&self.buf);
                        self.buf = buf;
                        self.malformed(&e)
                    }
                }
            }
            Ok(Scan::Command { len, name, argc }) => {
                let id = self.identify(&self.buf[name.0..name.1], &self.buf[..len]);
                let command = Command { len, argc, id };
                self.dispatch(command)
            }
            Err(e) => {
                let step = self.malformed(&e);
                // A scanner is of no use after an error; the frame is scanned afresh if it has to wait for replies.
                self.renew_scanner();
                step
            }
        }
    }

    /// The exact words of Redis, behind the replies to what came before; then the connection is closed.
    pub(super) fn malformed(&mut self, error: &ProtocolError) -> Step {
        if self.down.owed() > 0 {
            return Step::Wait(Wait::REPLIES);
        }
        if *error == ProtocolError::TooLargeBulk {
            self.pool.context.stats.reached(Limit::BulkBytes);
        }
        if let Some(reply) = error.reply() {
            self.down.push(reply);
        }
        Step::Close(CloseReason::ProtocolError)
    }

    /// The client has sent a PROXY header where none is believed. Redis would make an unknown command of version 1, and wait
    /// for the end of version 2 without end.
    fn refuse_header(&mut self) -> Step {
        let context = &self.pool.context;
        context.stats.proxied(ProxyHeader::Untrusted);
        let from = &self.presence.client.addr;
        if let Some(unsaid) = context.untrusted_headers.due() {
            let service = &context.terms().name;
            tracing::warn!(%service, %from, unsaid, "client refused: it sent a PROXY header, and listen.proxy_protocol does not name it");
        }
        let detail = format!("a PROXY header from {from} is not believed (listen.proxy_protocol)");
        self.down.push(OwnError::Denied.line(&detail));
        Step::Close(CloseReason::ProxyHeader)
    }

    /// The client shakes hands by TLS where none is spoken. It waits for an answer of TLS, and would wait for ever.
    fn refuse_tls(&mut self) -> Step {
        let context = &self.pool.context;
        context.stats.shaken(TlsHandshake::Unexpected);
        if let Some(unsaid) = context.failed_handshakes[TlsHandshake::Unexpected as usize].due() {
            let (terms, client) = (context.terms(), &self.presence.client);
            let (service, listener, from) = (&terms.name, &client.laddr, &client.addr);
            tracing::warn!(%service, %listener, %from, unsaid, "client refused: it speaks TLS, and this listener has no tls_cert_file");
        }
        Step::Close(CloseReason::TlsHandshake)
    }

    fn dispatch(&mut self, command: Command) -> Step {
        let info = command.id.info();
        let frame = &self.buf[..command.len];
        if self.terms.refused.mentions(command.id) && self.terms.refused.contains(command.id, frame) {
            return self.refuse(command, "is on the list `refuse` of pointsman's configuration");
        }
        if info.kind == Kind::Scan
            && let Some(step) = self.refuse_cursor(command)
        {
            return step;
        }
        if let Some(step) = self.learn(command) {
            return step;
        }
        if info.kind == Kind::Wait
            && let Some(step) = self.refuse_wait(command)
        {
            return step;
        }
        if matches!(info.kind, Kind::Plain | Kind::Scan | Kind::Script) && !self.state.is_pinned() && !self.unpin {
            if self.down.is_suspect() || !info.readonly && self.pool.context.is_paused() {
                return self.pin_and_send(command, Pinned::once(info));
            }
            return self.share(command);
        }
        if info.kind == Kind::Multi
            && let Some(step) = self.share_transaction(command)
        {
            return step;
        }
        match router::route(info, &self.buf[..command.len], command.argc, &self.state) {
            Route::Pinned(way) => self.pin_and_send(command, way),
            // Everything else changes the route: what is owed on the present one comes first.
            _ if self.down.owed() > 0 => Step::Wait(Wait::REPLIES),
            _ if self.unpin => Step::Done,
            // Scripts on their way into the server would be there behind a SCRIPT FLUSH.
            Route::Shared(_) if info.kind == Kind::ScriptControl && self.pool.context.scripts.is_loading() => {
                Step::Wait(Wait::until(Instant::now() + REFUSED_PAUSE))
            }
            Route::Shared(_) => {
                if info.kind == Kind::Unwatch {
                    self.transaction.watch_lost = false;
                }
                self.share(command)
            }
            Route::Local(local) => self.answer(command, local),
            Route::Judge => self.judge(command),
            Route::About(about) => self.ask_about(command, about),
            Route::Select(database) => self.select(command, database),
        }
    }

    /// Does not forward the command at the front. `why` follows "it".
    pub(super) fn refuse(&mut self, command: Command, why: &str) -> Step {
        if self.down.owed() > 0 {
            return Step::Wait(Wait::REPLIES);
        }
        let name = String::from_utf8_lossy(args(&self.buf[..command.len]).next().unwrap_or_default()).to_uppercase();
        let line = OwnError::Refused.line(&format!("{name} is refused: it {why}"));
        self.transaction.spoil(self.state.multi);
        self.say(command, line)
    }

    /// Counts a command at the front and takes it from the buffer.
    pub(super) fn take(&mut self, command: Command) -> Bytes {
        self.count(command.id.index());
        self.forget_wait();
        self.in_doubt = false;
        self.unmark();
        self.buf.split_to(command.len).freeze()
    }

    pub(super) fn count(&mut self, index: usize) {
        self.presence.client.sent(index);
        if self.counted > 0 {
            self.counted -= 1;
        } else {
            self.pool.context.stats.commands[index].add(1);
        }
    }

    /// Answers the command at the front with a line of pointsman's own.
    pub(super) fn say(&mut self, command: Command, line: Bytes) -> Step {
        let frame = self.take(command);
        if let Some(waited) = self.take_waited() {
            self.note_answered(&frame, &waited, &line, None);
        }
        let silent = self.state.replies != Replies::On;
        if self.state.replies == Replies::Skip {
            self.state.replies = Replies::On;
        }
        if !silent {
            self.down.push(line);
            self.flush();
        }
        Step::Done
    }
}
