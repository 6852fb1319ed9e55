//! Which of the observed registrations stay: what the planner has seen wanted, so that the rest can be told.
//!
//! By identity: each is one entry of the observation. To hash and compare ten thousand ids, each somewhere else in memory, is
//! a good part of what a plan costs. Only ever asked, never gone through, since the order is another one in every run.

use std::marker::PhantomData;

use foldhash::{HashSet, HashSetExt};

use crate::observed::Registration;

pub(super) struct Staying<'a> {
    places: HashSet<*const Registration>,
    observation: PhantomData<&'a Registration>,
}

impl<'a> Staying<'a> {
    pub fn with_room_for(count: usize) -> Self {
        Self { places: HashSet::with_capacity(count), observation: PhantomData }
    }

    pub fn insert(&mut self, registration: &'a Registration) {
        self.places.insert(std::ptr::from_ref(registration));
    }

    pub fn contains(&self, registration: &'a Registration) -> bool {
        self.places.contains(&std::ptr::from_ref(registration))
    }
}
