//! The connections of a disk: made when needed, used by one reader at a time, and all given up when one of them broke.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::NbdOptions;
use super::channel::Connector;
use super::connection::Connection;
use super::error::Fault;
use super::negotiate::Export;

/// A server that allows several connections and then does not answer a second one must not cost the whole patience. Once it
/// has answered, its disk may be as slow there as on the first.
const MORE_PATIENCE: Duration = Duration::from_secs(5);

/// Connections to one export.
pub(super) struct Pool {
    connector: Box<dyn Connector>,
    name: String,
    options: NbdOptions,
    export: Export,
    state: Mutex<Connections>,
    freed: Condvar,
}

struct Connections {
    idle: Vec<Connection>,
    /// Those in use too.
    open: usize,
    limit: usize,
    /// Why nothing is read any more: after a broken connection the server may be another one.
    gone: Option<String>,
}

impl Pool {
    /// Makes the first connection.
    pub(super) fn open(
        connector: Box<dyn Connector>,
        name: &str,
        options: &NbdOptions,
    ) -> Result<Self, Fault> {
        let channel = connector.connect(options.timeout)?;
        let first = Connection::open(channel, name, connector.wants_tls(), options)?;
        let export = first.export().clone();
        let limit = if export.can_multi_connect { options.connections.max(1) } else { 1 };
        let state = Mutex::new(Connections { idle: vec![first], open: 1, limit, gone: None });
        let (name, options) = (name.to_owned(), options.clone());
        Ok(Self { connector, name, options, export, state, freed: Condvar::new() })
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    /// Works with a connection of its own. A fault is the end of all connections.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut connection = self.take()?;
        match work(&mut connection) {
            Ok(value) => {
                self.state().idle.push(connection);
                self.freed.notify_one();
                Ok(value)
            }
            Err(fault) => {
                connection.abandon();
                self.give_up(&fault);
                Err(fault)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, Connections> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self, fault: &Fault) {
        let mut state = self.state();
        state.gone.get_or_insert_with(|| fault.to_string());
        state.idle.iter_mut().for_each(Connection::abandon);
        state.idle.clear();
        drop(state);
        self.freed.notify_all();
    }

    /// Whoever holds a connection gives it back within the server's time, so that waiting here has an end too.
    fn take(&self) -> Result<Connection, Fault> {
        let mut state = self.state();
        loop {
            if let Some(first) = &state.gone {
                return Err(Fault::Gone(first.clone()));
            }
            if let Some(connection) = state.idle.pop() {
                return Ok(connection);
            }
            if state.open < state.limit {
                state.open = state.open.saturating_add(1);
                drop(state);
                if let Some(connection) = self.one_more()? {
                    return Ok(connection);
                }
                state = self.state();
                continue;
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One more connection. Without it reading is slower and not wrong, so that a server which allows fewer than it
    /// says is left at those it has; one that shows another disk is not.
    fn one_more(&self) -> Result<Option<Connection>, Fault> {
        let opened = self.connector.connect(self.options.timeout.min(MORE_PATIENCE)).and_then(|channel| {
            let mut opened =
                Connection::open(channel, &self.name, self.connector.wants_tls(), &self.options)?;
            opened.be_patient(self.options.timeout)?;
            Ok(opened)
        });
        match opened {
            Ok(connection) if connection.export().is_same(&self.export) => Ok(Some(connection)),
            Ok(connection) => {
                let (now, then) = (connection.export().size_bytes, self.export.size_bytes);
                let fault = Fault::Replaced(format!("another disk ({now} bytes, at first {then})"));
                self.give_up(&fault);
                Err(fault)
            }
            Err(_) => {
                let mut state = self.state();
                state.open = state.open.saturating_sub(1);
                state.limit = state.open.max(1);
                Ok(None)
            }
        }
    }
}
