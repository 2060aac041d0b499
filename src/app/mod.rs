//! The composition root: builds every part from the configuration, runs them, and ends them in order.

mod listeners;
mod reload;
mod services;
mod succession;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::{self, AdminState, Instruction, Reloaded, Watched};
use crate::clock::Moment;
use crate::config::{Config, Problems, Resolved, ServiceConfig};
use crate::hooks::Hooks;
use crate::listener::{Target, Targets};
use crate::net::{BindError, Handshakes, Inherited, Listener, Offered, Resolver, Role, Successor};
use crate::sentinel::{self, ServiceControl};
use crate::shutdown::{Asked, Signals};
use crate::systemd::ServiceManager;
use crate::worker::{INBOX, Load, Worker};
use listeners::{Bound, Listeners};
use reload::Plan;
use services::{Running, SERVICES};
pub(crate) use succession::DETACH;
use succession::{Before, Succession};

/// Why pointsman could not run, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pointsman that runs did not give us its place.
    #[error("cannot take over from the pointsman that runs: {0}")]
    Takeover(String),
    /// A thread ended that must not.
    #[error("a thread has failed, see the log: traffic cannot go on")]
    Failed,
}

impl Error {
    /// EX_OSERR of `sysexits.h`, or EX_SOFTWARE for a failure of our own: a supervisor starts us again after either.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bind(_) | Self::System { .. } | Self::Takeover(_) => 71,
            Self::Failed => 70,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Runs until a signal ends it; at SIGHUP, or when asked by way of the admin server, goes by the configuration anew.
///
/// # Errors
/// [`Error`], before anything was served or when a thread has failed.
pub fn run(config: Config, inherited: Inherited, reloading: Reloading) -> Result<(), Error> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("cannot start the runtime"))?;
    let ended = runtime.block_on(async {
        let app = App::build(config, inherited, reloading).await?;
        app.serve().await
    });
    // A task of it waits for workers whose clients have not left. They end with the process.
    runtime.shutdown_background();
    ended
}

/// Every client is a descriptor, and every backend connection two; the soft limit of 1024 that most systems give is
/// kept low only for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

/// Where another configuration comes from while running, and what is done with the part of it that is not the app's.
pub struct Reloading {
    /// Reads it anew, from where it came from at the start.
    pub read: Box<dyn Fn() -> Result<Resolved, Problems>>,
    /// Sets what is logged, as `log.level` has it.
    pub set_log_level: Box<dyn Fn(&str)>,
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").finish_non_exhaustive()
    }
}

/// Why a process ends that does well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// A signal asked for it, by this name.
    Signal(&'static str),
    /// A successor serves.
    Succeeded,
}

struct App {
    config: Config,
    reloading: Reloading,
    /// Until its sockets are given out.
    bound: Bound,
    listeners: Listeners,
    /// In the order of the configuration.
    services: Vec<Running>,
    started: u64,
    /// Until they are served.
    admin: Vec<Listener>,
    /// Whose sockets we have; it stops once we can serve.
    before: Option<Before>,
    /// What of those is not wanted.
    inherited: Inherited,
    manager: Option<Arc<ServiceManager>>,
    admin_state: Arc<AdminState>,
    watched: watch::Sender<Vec<Watched>>,
    hooks: Hooks,
    instructions: mpsc::Receiver<Instruction>,
    targets: Arc<Targets>,
    /// What control resolves; workers only look at it.
    names: Resolver,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    to_control: mpsc::Sender<ServiceControl>,
    /// Ends control; or says that it, or a worker, has ended by itself.
    control_stop: CancellationToken,
    signals: Signals,
}

impl App {
    /// Binds every socket first, so that nothing is served, and no thread started, if one cannot be had.
    async fn build(config: Config, mut inherited: Inherited, reloading: Reloading) -> Result<Self, Error> {
        let signals = Signals::new().map_err(system("cannot handle signals"))?;
        let manager = ServiceManager::of_process().map(Arc::new);
        for name in inherited.release(&config.services) {
            manager.iter().for_each(|manager| manager.forget(&name));
        }
        let mut before = match &config.takeover {
            Some(path) => Before::ask(path, &mut inherited).await?,
            None => None,
        };
        let listeners = Listeners::new(manager.clone());
        let bound = listeners.bind_new(config.services.iter().flat_map(|s| &s.listen), &mut inherited)?;
        let mut nobodys = Inherited::default();
        let admins = before.as_mut().map_or(&mut nobodys, |before| &mut before.admin);
        let admin = config.admin.listen.iter().map(|listener| admins.open(listener)).collect::<Result<_, _>>()?;

        let heartbeats: Arc<Vec<AtomicU64>> = Arc::new((0..=config.workers).map(|_| AtomicU64::new(0)).collect());
        let mut workers = Vec::new();
        let mut targets = Vec::new();
        let handshakes = Handshakes::default();
        for number in 0..config.workers {
            let (inbox, clients) = mpsc::channel(INBOX);
            let load: Arc<Load> = Arc::default();
            let (adder, services) = mpsc::channel(SERVICES);
            let (errander, errands) = mpsc::channel(SERVICES);
            targets.push(Target { inbox, services: adder, errands: errander, load: Arc::clone(&load) });
            let worker = Worker {
                number,
                load,
                heartbeats: Arc::clone(&heartbeats),
                inbox: clients,
                services,
                errands,
                handshakes: handshakes.clone(),
            };
            workers.push(worker.spawn().map_err(system("cannot start a worker thread"))?);
        }
        let control_stop = CancellationToken::new();
        let names = Resolver::new(config.resolvers.clone());
        let beats = Arc::clone(&heartbeats);
        let beat = move || beats[beats.len() - 1].store(Moment::now().0, Ordering::Relaxed);
        let (to_control, controlled) = mpsc::channel(SERVICES);
        let control = sentinel::spawn(controlled, names.clone(), beat, control_stop.clone())
            .map_err(system("cannot start the control thread"))?;
        let (watched, watched_services) = watch::channel(Vec::new());
        let (instructor, instructions) = mpsc::channel(1);
        let admin_state = AdminState::new(watched_services, heartbeats, instructor, config.admin.clone());
        let hooks = Hooks::new(config.resolvers.clone(), admin_state.hooks());
        Ok(Self {
            config,
            reloading,
            bound,
            listeners,
            services: Vec::new(),
            started: 0,
            admin,
            before,
            inherited,
            manager,
            admin_state: Arc::new(admin_state),
            watched,
            hooks,
            instructions,
            targets: Arc::new(Targets::new(targets)),
            names,
            workers,
            control,
            to_control,
            control_stop,
            signals,
        })
    }

    /// Serves until the first signal, or until a successor does, and drains then.
    async fn serve(mut self) -> Result<(), Error> {
        // Before there are services: what happens to them is told from the beginning.
        self.hooks.configure(&self.config.hooks).map_err(system("cannot start a thread for hooks"))?;
        for service in self.config.services.clone() {
            self.start(service)?;
        }
        let mut succession = Succession::prepare(self.config.takeover.as_deref())?;
        let admin_sockets = self.admin_sockets()?;
        let admin_files: Vec<_> = self.admin.iter().filter_map(Listener::file).collect();
        // Behind this nothing may fail: nobody else serves then.
        let mut told = Vec::new();
        if let Some(before) = self.before.take() {
            tokio::select! {
                relieved = before.relieve(&self.services) => told = relieved?,
                signal = self.signals.end() => {
                    tracing::info!(signal, "ending; the pointsman that runs goes on");
                    return Ok(());
                }
                () = self.control_stop.cancelled() => return Err(Error::Failed),
            }
        }
        let bound = std::mem::take(&mut self.bound);
        self.give_out(bound, &told);
        for name in std::mem::take(&mut self.inherited).close() {
            self.manager.iter().for_each(|manager| manager.forget(&name));
        }
        succession.show();
        let stop_admin = CancellationToken::new();
        for listener in &self.admin {
            tracing::info!(address = %listener.local_addr(), "admin listening");
            listener.leave_file(false);
        }
        let listeners = std::mem::take(&mut self.admin);
        let admin = tokio::spawn(admin::serve(listeners, Arc::clone(&self.admin_state), stop_admin.clone()));
        let informing = self.manager.as_ref().map(|manager| {
            manager.ready(&self.admin_state);
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(manager).keep_informed(Arc::clone(&self.admin_state))))
        });

        let end = loop {
            let offer = || succession::offer(&self.listeners, &admin_sockets, &self.services, &self.admin_state);
            tokio::select! {
                successor = succession.asked(offer) => match self.yield_to(successor).await {
                    Ok(()) => break End::Succeeded,
                    Err(error) => tracing::warn!("takeover: we go on: {error}"),
                },
                asked = self.signals.next() => match asked {
                    Asked::Reload => {
                        succession.withdraw();
                        drop(self.reload_told("SIGHUP").await?);
                    }
                    Asked::Succession => succession.start().await,
                    Asked::End(signal) => break End::Signal(signal),
                },
                // Whoever asked may have left by the time of the answer.
                Some(instruction) = self.instructions.recv() => match instruction {
                    Instruction::Reload(done) => {
                        succession.withdraw();
                        let _ = done.send(self.reload_told("admin").await?);
                    }
                    Instruction::SetLogLevel { level, done } => {
                        let _ = done.send(self.log_at(level));
                    }
                },
                // Without control every lease runs out, without a worker its clients hang: better to be started again.
                () = self.control_stop.cancelled() => return Err(Error::Failed),
            }
        };
        let mut grace = self.config.drain_grace;
        self.admin_state.drain();
        match end {
            End::Signal(signal) => {
                tracing::info!(signal, "draining");
                if let Some(manager) = &self.manager {
                    manager.stopping(self.config.drain_timeout);
                }
            }
            End::Succeeded => {
                tracing::info!("another pointsman has taken over; draining");
                // It speaks for the service from now on, to hooks and at the address of the admin server too.
                drop(informing);
                self.hooks.observe(Vec::new(), &[]);
                admin_files.iter().for_each(|file| file.leave(true));
                succession.leave();
                stop_admin.cancel();
                // Nobody who leaves finds a closed port.
                grace = Duration::ZERO;
            }
        }
        drop((admin_sockets, succession));
        self.drain(grace, end == End::Succeeded).await;
        stop_admin.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
        Ok(())
    }

    /// No new clients; those there leave at a command boundary; what is left after `drain_timeout`, or at a second signal,
    /// is closed.
    async fn drain(mut self, grace: Duration, has_successor: bool) {
        let end = Instant::now() + self.config.drain_timeout;
        // Nobody heeds these any more: whoever asks is told so at once.
        drop(self.instructions);
        let loads = self.targets.loads();
        let clients = move || loads.iter().map(|load| load.clients.value()).sum::<u64>();
        let admin_state = Arc::clone(&self.admin_state);
        let (listeners, targets, workers) = (self.listeners, self.targets, std::mem::take(&mut self.workers));
        let drained = async {
            // A listener whose worker is stuck with a full inbox does not end.
            listeners.close(has_successor).await;
            tracing::info!(clients = clients(), "nobody can connect any more");
            // A balancer has to see that the port is closed before it sends elsewhere those who leave here.
            tokio::time::sleep(grace).await;
            // With the listeners' this was the last way into the workers' inboxes, which are closed by that.
            drop(targets);
            let _ = tokio::task::spawn_blocking(move || workers.into_iter().for_each(|w| drop(w.join()))).await;
            // What a switchover has changed it sets back itself, or finishes.
            while admin_state.is_switching_over() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let at_once = tokio::select! {
            // What is left to a successor is said at its very beginning.
            biased;
            () = drained => {
                tracing::info!("drained");
                false
            }
            signal = self.signals.end() => {
                tracing::info!(signal, clients = clients(), "ending at once");
                true
            }
            () = tokio::time::sleep_until(end) => {
                tracing::info!(clients = clients(), "drain_timeout has passed; closing what is left");
                false
            }
        };
        if !at_once {
            tokio::select! {
                () = self.hooks.finish() => {}
                _ = self.signals.end() => {}
            }
        }
        // Threads that are still at work end with the process; waiting for them is what the time-out was for.
        self.control_stop.cancel();
        drop(self.control);
    }

    /// Gives our place to another process.
    async fn yield_to(&self, successor: Successor) -> io::Result<()> {
        // It was some seconds ago that it asked.
        if let Some(why) = succession::unfit(&self.services, &self.admin_state) {
            successor.refuse(&why).await;
            return Err(io::Error::other(why));
        }
        // Before the other says anything: it is not heard while we are the service.
        if let (Some(manager), Some(process)) = (&self.manager, successor.pid) {
            manager.succeeded_by(process);
        }
        successor.yield_to().await
    }

    /// The admin server's sockets once more, as a successor is offered them.
    fn admin_sockets(&self) -> Result<Vec<Offered>, Error> {
        let sockets = self.config.admin.listen.iter().zip(&self.admin);
        let offered = sockets.map(|(config, socket)| Offered::of(Role::Admin, &config.address, socket));
        offered.collect::<io::Result<_>>().map_err(system("cannot keep the admin server's sockets"))
    }

    fn start(&mut self, config: ServiceConfig) -> Result<(), Error> {
        self.started += 1;
        let service = Running::start(self.started, config, &self.targets, &self.to_control, &self.names);
        self.services.push(service.ok_or(Error::Failed)?);
        Ok(())
    }

    /// Gives every listening socket to the services as they run now, and shows them to the admin server, and to the hooks:
    /// `told` are those of which another process has told these until now.
    fn give_out(&mut self, bound: Bound, told: &[String]) {
        let destinations = self.services.iter().flat_map(Running::destinations).collect();
        self.listeners.aim(destinations, bound, &self.targets, &self.control_stop);
        self.watched.send_replace(self.services.iter().map(Running::watched).collect());
        self.hooks.observe(self.services.iter().map(Running::status).collect(), told);
    }

    /// Sets what is logged, or sets it back. Returns the level in force.
    fn log_at(&mut self, level: Option<String>) -> String {
        let now = level.clone().unwrap_or_else(|| self.config.log.level.clone());
        (self.reloading.set_log_level)(&now);
        // At the new level: of what is quieter than this nobody wants to know.
        tracing::info!("logged from now on: {now}");
        self.admin_state.note_log_level(level);
        now
    }

    /// [`Self::reload`], and the service manager knows when it begins and ends.
    async fn reload_told(&mut self, by: &str) -> Result<Reloaded, Error> {
        if let Some(manager) = &self.manager {
            manager.reloading();
        }
        let outcome = self.reload(by).await;
        if let Some(manager) = &self.manager {
            manager.ready(&self.admin_state);
        }
        outcome
    }

    /// Reads the configuration again and goes by it as far as that can be; all of it, or nothing if it is wrong. Says what
    /// changed, or why nothing did.
    async fn reload(&mut self, by: &str) -> Result<Reloaded, Error> {
        let refused = |why: String| {
            self.admin_state.note_reload(false);
            why.lines().for_each(|line| tracing::error!("not reloaded: {line}"));
            Ok(Err(why))
        };
        let Resolved { config, warnings, faults } = match (self.reloading.read)() {
            Ok(resolved) => resolved,
            Err(problems) => return refused(problems.to_string()),
        };
        // Who has put a certificate that is not valid in the place of another is there to mend it. One that has expired
        // where it is used says nothing against any other change.
        let (used, now) = (self.config.certificates(), SystemTime::now());
        if config.certificates().iter().any(|new| new.2.is_fault(now) && !used.contains(new)) {
            return refused(Problems(faults).to_string());
        }
        for fault in faults {
            tracing::error!("{fault}");
        }
        let wanted = config.services.iter().flat_map(|s| &s.listen);
        let bound = match self.listeners.bind_new(wanted, &mut Inherited::default()) {
            Ok(bound) => bound,
            Err(error) => return refused(error.to_string()),
        };
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let plan = Plan::new(&self.config, &config);
        for line in &plan.lines {
            tracing::info!(by, "reloaded: {line}");
        }
        let patience = config.drain_timeout;
        let ends = |service: &mut Running| plan.end.contains(&service.config().name);
        let ending: Vec<Running> = self.services.extract_if(.., ends).collect();
        for &place in &plan.change {
            let config = &config.services[place];
            if let Some(service) = self.services.iter().find(|s| s.config().name == config.name) {
                service.configure(config.clone());
            }
        }
        for &place in &plan.start {
            self.start(config.services[place].clone())?;
        }
        let order = |service: &Running| config.services.iter().position(|s| s.name == service.config().name);
        self.services.sort_by_key(order);
        self.give_out(bound, &[]);
        if let Err(error) = self.hooks.configure(&config.hooks) {
            tracing::error!(%error, "cannot start a thread for hooks: nobody is told anything");
        }
        // What is told to need a restart is told again next time.
        let before = std::mem::replace(&mut self.config, config);
        for listener in self.config.services.iter_mut().flat_map(|s| &mut s.listen) {
            let mut open = before.services.iter().flat_map(|s| &s.listen);
            if let Some(open) = open.find(|open| open.address == listener.address) {
                (listener.backlog, listener.access) = (open.backlog, open.access);
            }
        }
        self.config.log.format = before.log.format;
        (self.config.workers, self.config.takeover, self.config.user, self.config.resolvers) =
            (before.workers, before.takeover, before.user, before.resolvers);
        if !self.config.admin.is_opened_like(&before.admin) {
            self.config.admin.listen = before.admin.listen;
        }
        self.admin_state.configure(self.config.admin.clone());
        if self.config.log.level != before.log.level {
            self.log_at(None);
        }
        self.admin_state.note_reload(true);
        // Last, since it waits: all else is in step by now. Nobody is sent to these that end, once those who came while the
        // sockets were closed are with them.
        self.listeners.settle().await;
        for service in ending {
            tokio::spawn(service.end(patience));
        }
        Ok(Ok(plan.lines))
    }
}
