//! Starts services after those they depend on, stops them before those they depend on, and stops all when one fails.
//!
//! Invariants
//! * A service is started only when everything it depends on runs, and told to stop only when everything that depends on it has stopped.
//! * The first failure stops all; it is the result of [`run_all`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// A part of the process with a life of its own.
#[async_trait]
pub trait Service: Send + Sync {
    /// Returns once the service can do its work; its dependents wait for that.
    async fn start(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Works until `stop` fires, then drains and returns. Returning earlier is a failure unless it is `Ok` after `stop`.
    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()>;
}

/// A service for modules that only exist: nothing to run, but a place in the order.
pub struct Idle;

#[async_trait]
impl Service for Idle {
    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        stop.cancelled().await;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    New,
    Starting,
    Running,
    Stopping,
    Terminated,
    Failed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl State {
    fn is_final(self) -> bool {
        matches!(self, Self::Terminated | Self::Failed)
    }
}

/// A named service and the names of those it depends on.
pub struct Module {
    pub name: &'static str,
    pub needs: Vec<&'static str>,
    pub service: Box<dyn Service>,
}

/// The states of all modules, for `/ready` and `/status/services`.
#[derive(Clone, Default)]
pub struct States(Arc<Mutex<BTreeMap<&'static str, ModuleState>>>);

struct ModuleState {
    state: watch::Sender<State>,
    failure: Option<String>,
}

impl States {
    /// Returns name, state and failure of each module, sorted by name.
    pub fn list(&self) -> Vec<(&'static str, State, Option<String>)> {
        self.0.lock().iter().map(|(name, module)| (*name, *module.state.borrow(), module.failure.clone())).collect()
    }

    /// Returns when all modules run. Never returns when one of them fails before.
    pub async fn wait_until_running(&self) {
        loop {
            let watches: Vec<_> = self.0.lock().values().map(|module| module.state.subscribe()).collect();
            let is_complete = !watches.is_empty();
            for mut watch in watches {
                // An error means that the module is gone.
                let _gone = watch.wait_for(|state| *state == State::Running).await;
            }
            if is_complete {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn add(&self, name: &'static str) {
        self.0.lock().insert(name, ModuleState { state: watch::Sender::new(State::New), failure: None });
    }

    fn set(&self, name: &'static str, state: State) {
        if let Some(module) = self.0.lock().get(name) {
            module.state.send_replace(state);
        }
    }

    fn fail(&self, name: &'static str, failure: String) {
        if let Some(module) = self.0.lock().get_mut(name) {
            module.failure = Some(failure);
            module.state.send_replace(State::Failed);
        }
    }

    fn watch(&self, name: &str) -> Option<watch::Receiver<State>> {
        self.0.lock().get(name).map(|module| module.state.subscribe())
    }
}

/// Runs all modules until `stop` fires or one fails. Returns the first failure. Names in `needs` that are no module are ignored.
pub async fn run_all(modules: Vec<Module>, states: States, stop: CancellationToken) -> anyhow::Result<()> {
    let first_failure = Arc::new(Mutex::new(None));
    for module in &modules {
        states.add(module.name);
    }
    let dependents: Vec<Vec<_>> = modules.iter().map(|module| watch_dependents(&modules, module.name, &states)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (module, dependents) in modules.into_iter().zip(dependents) {
        let needs = module.needs.iter().filter_map(|name| states.watch(name)).collect();
        let life = Life { name: module.name, needs, dependents, states: states.clone(), stop: stop.clone() };
        let first_failure = Arc::clone(&first_failure);
        tasks.spawn(async move {
            if let Err(failure) = life.live(module.service).await {
                let _keep_the_first = first_failure.lock().get_or_insert(failure);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(panic) = ended {
            stop.cancel();
            let _keep_the_first = first_failure.lock().get_or_insert(anyhow::Error::new(panic).context("a module panicked"));
        }
    }
    let failure = first_failure.lock().take();
    failure.map_or(Ok(()), Err)
}

fn watch_dependents(modules: &[Module], name: &str, states: &States) -> Vec<watch::Receiver<State>> {
    modules.iter().filter(|other| other.needs.contains(&name)).filter_map(|other| states.watch(other.name)).collect()
}

struct Life {
    name: &'static str,
    needs: Vec<watch::Receiver<State>>,
    dependents: Vec<watch::Receiver<State>>,
    states: States,
    stop: CancellationToken,
}

impl Life {
    async fn live(mut self, service: Box<dyn Service>) -> anyhow::Result<()> {
        let outcome = self.start_and_run(service).await;
        match &outcome {
            Ok(()) => {
                self.states.set(self.name, State::Terminated);
                info!(module = self.name, "module stopped");
            }
            Err(failure) => {
                self.states.fail(self.name, format!("{failure:#}"));
                error!(module = self.name, err = format!("{failure:#}"), "module failed");
                self.stop.cancel();
            }
        }
        outcome.map_err(|failure| failure.context(format!("module {}", self.name)))
    }

    async fn start_and_run(&mut self, mut service: Box<dyn Service>) -> anyhow::Result<()> {
        for needed in &mut self.needs {
            let running = needed.wait_for(|state| *state >= State::Running).await.map_or(State::Failed, |state| *state);
            if running != State::Running {
                return Ok(()); // all are stopping; the failed one speaks for itself
            }
        }
        info!(module = self.name, "starting");
        self.states.set(self.name, State::Starting);
        let own_stop = CancellationToken::new();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            started = service.start() => started?,
        }
        self.states.set(self.name, State::Running);

        let run = service.run(own_stop.clone());
        tokio::pin!(run);
        tokio::select! {
            () = may_stop(&self.stop, &mut self.dependents) => {}
            ended = &mut run => {
                ended?;
                anyhow::ensure!(self.stop.is_cancelled(), "ended without being told to");
                return Ok(());
            }
        }
        self.states.set(self.name, State::Stopping);
        own_stop.cancel();
        run.await
    }
}

/// Waits until the process is to stop and all dependents have stopped.
async fn may_stop(stop: &CancellationToken, dependents: &mut [watch::Receiver<State>]) {
    stop.cancelled().await;
    for dependent in dependents {
        // An error means that the states are gone, and with them the dependent.
        let _gone = dependent.wait_for(|state| state.is_final()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Recorder {
        name: &'static str,
        journal: Arc<Mutex<Vec<String>>>,
        fails: bool,
    }

    #[async_trait]
    impl Service for Recorder {
        async fn start(&mut self) -> anyhow::Result<()> {
            self.journal.lock().push(format!("start {}", self.name));
            Ok(())
        }

        async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
            anyhow::ensure!(!self.fails, "broken");
            stop.cancelled().await;
            self.journal.lock().push(format!("stop {}", self.name));
            Ok(())
        }
    }

    fn modules(journal: &Arc<Mutex<Vec<String>>>, fails: &str) -> Vec<Module> {
        [("top", vec!["middle"]), ("middle", vec!["base"]), ("base", vec![])]
            .into_iter()
            .map(|(name, needs)| Module {
                name,
                needs,
                service: Box::new(Recorder { name, journal: Arc::clone(journal), fails: name == fails }),
            })
            .collect()
    }

    #[tokio::test]
    async fn starts_upwards_and_stops_downwards() {
        let (journal, states, stop) = (Arc::default(), States::default(), CancellationToken::new());
        let all = tokio::spawn(run_all(modules(&journal, ""), states.clone(), stop.clone()));
        while states.list().len() < 3 || states.list().iter().any(|(_, state, _)| *state != State::Running) {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        all.await.unwrap().unwrap();
        assert_eq!(*journal.lock(), ["start base", "start middle", "start top", "stop top", "stop middle", "stop base"]);
        assert!(states.list().iter().all(|(_, state, _)| *state == State::Terminated));
    }

    #[tokio::test]
    async fn a_failure_stops_all_and_is_the_result() {
        let (journal, states, stop) = (Arc::default(), States::default(), CancellationToken::new());
        let failure = run_all(modules(&journal, "middle"), states.clone(), stop).await.unwrap_err();
        assert_eq!(format!("{failure:#}"), "module middle: broken");
        assert!(journal.lock().contains(&"stop base".to_owned()));
        assert_eq!(states.list()[1], ("middle", State::Failed, Some("broken".to_owned())));
    }
}
