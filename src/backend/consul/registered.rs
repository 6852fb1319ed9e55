//! A look after nothing but registrations of our own: what the agent has taken over need not be read back before traffic
//! follows it.
//!
//! An agent syncs what it was told before it answers. So the catalog is asked for these services, which says whether they
//! are there and pass; what was written stands for what the agent has, and all else is as the last look saw it, a moment
//! ago. Nothing is settled by such a look: what it believed stays marked, and another one is owed that reads it.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::StreamExt as _;

use super::Consul;
use super::kept;
use super::view::QUERIES_AT_ONCE;
use crate::observed::{self, CheckStatus, FRESH, Interest, View};
use crate::plan::action::NewRegistration;
use crate::spec::upstream::CatalogQuery;

/// What was written since the last look.
#[derive(Debug, Clone)]
pub(super) enum Written {
    /// Nothing but these.
    Registered(Vec<NewRegistration>),
    Other,
}

impl Default for Written {
    fn default() -> Self {
        Self::Registered(Vec::new())
    }
}

impl Written {
    pub fn add(&mut self, registered: Option<&NewRegistration>) {
        match (&mut *self, registered) {
            (Self::Registered(all), Some(new)) => all.push(new.clone()),
            _ => *self = Self::Other,
        }
    }
}

impl Consul {
    /// `before`: what the look saw that these registrations followed from. `None`: it has to be looked at as ever.
    pub(super) async fn as_registered(
        &self,
        interest: &Interest,
        before: &observed::Consul,
    ) -> Option<observed::Consul> {
        let now = Instant::now();
        let written = self.keeping(|memory| memory.only_registered(now.checked_sub(FRESH)?))?;
        let fails =
            |new: &NewRegistration| new.check.as_ref().is_some_and(|check| check.initial != CheckStatus::Passing);
        let same = before.leader.is_some() && before.catalog.keys().eq(&interest.catalog);
        if !same || written.iter().any(fails) {
            return None;
        }
        let names: BTreeSet<&str> = written.iter().map(|new| new.name.as_str()).collect();
        // Another datacenter is told of nothing that is registered here, and may not even be there to answer.
        let local = |query: &&CatalogQuery| query.datacenter.as_ref().is_none_or(|one| *one == before.agent.datacenter);
        let asked =
            interest.catalog.iter().filter(|query| names.contains(query.service.as_str())).filter(local).cloned();
        let asked: Vec<_> = asked.map(|query| self.query(query, now)).collect();
        let answers: Vec<_> = futures_util::stream::iter(asked).buffer_unordered(QUERIES_AT_ONCE).collect().await;
        let there = |new: &NewRegistration| {
            let instances =
                answers.iter().filter_map(|(_, answer)| answer.known()).flat_map(|one| one.instances.iter());
            let mut same = instances.filter(|one| one.id == new.id && one.node == before.agent.node);
            same.any(|one| one.container.as_ref() == Some(&new.container))
        };
        if answers.iter().any(|(_, answer)| matches!(answer, View::Unknown { .. })) || !written.iter().all(there) {
            return None;
        }
        let mut seen = before.clone();
        for new in &written {
            seen.registered(new, &self.owner);
        }
        seen.catalog.extend(answers);
        self.keeping(kept::Memory::believe);
        Some(seen)
    }

    /// The last look believed what it did not read: another one has to follow.
    pub fn owes_a_look(&self) -> bool {
        self.keeping(|memory| memory.owes_a_look())
    }
}
