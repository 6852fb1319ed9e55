//! The planner's gates by name: each is one condition that keeps a step back.
//!
//! A gate that nobody misses is either superfluous or not judged by anything. So a test build can switch each of them off,
//! and the explorer (`tests/explore`) must then find a way to the harm that the gate's line here names. A release build
//! has no such switch: there is nothing in it that could be off.

use std::fmt;

/// Names all gates once: the variants, their list, and their words.
macro_rules! gates {
    ($($(#[doc = $doc:literal])+ $gate:ident = $name:literal,)+) => {
        /// One condition of the planner. Its line says what happens without it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Gate {
            $($(#[doc = $doc])+ $gate,)+
        }

        impl Gate {
            pub const ALL: &'static [Self] = &[$(Self::$gate,)+];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$gate => $name,)+
                }
            }
        }
    };
}

gates! {
    // ---------------------------------------------------------------------------------------- resources
    /// A network is removed while containers are attached to it, which Docker refuses again and again.
    NetworkInUse = "network_in_use",
    /// A container is made without its network, volume or image.
    Resources = "resources",

    // ---------------------------------------------------------------------------------------- replicas
    /// A container that dies at once is started again at once, for ever.
    RestartPause = "restart_pause",
    /// A new container gets the requests that nginx still sends to the dead one whose host port it takes.
    PortStillRouted = "port_still_routed",
    /// A service starts before what it depends on.
    Dependency = "dependency",
    /// More containers than replicas and surge.
    Surge = "surge",
    /// More new replicas at a time than `parallelism`.
    Parallelism = "parallelism",
    /// A stop-first replica is made beside the old one of its slot.
    StopFirst = "stop_first",
    /// A name or host port that a stranger holds is wanted all the same.
    Strangers = "strangers",
    /// A replica that serves is taken away although nothing can take its place.
    Replaceable = "replaceable",
    /// More replicas are taken down at a time than `parallelism`.
    Room = "room",
    /// A replica that serves is taken away before others serve in its place.
    Capacity = "capacity",
    /// A new replica counts before its declared check has run.
    ProvenCheck = "proven_check",
    /// A new replica counts before the upstreams that route to its sisters route to it.
    AwaitedRoute = "awaited_route",

    // ---------------------------------------------------------------------------------------- retiring
    /// A registered replica is stopped while Consul cannot be read.
    ConsulKnown = "consul_known",
    /// A replica is drained while it cannot be told what nginx routes, and with it what serves.
    CapacitySeen = "capacity_seen",
    /// A replica is stopped without having been drained in Consul.
    Drain = "drain",
    /// A replica is stopped while nginx routes to it.
    Unrouted = "unrouted",
    /// A replica is stopped while it cannot be told whether nginx routes to it.
    RoutedKnown = "routed_known",
    /// A replica is stopped while requests are under way.
    DrainTime = "drain_time",
    /// The drain time goes on running while somebody else's reload routes to the replica again.
    ClockStops = "clock_stops",
    /// A replica that somebody deregistered is taken for one that nobody sends requests to.
    BearsTraffic = "bears_traffic",
    /// Two servers of Consul are down at once.
    Peers = "peers",
    /// Half a file removes every service.
    MassRemoval = "mass_removal",
    /// Consul itself leaves before what is registered in it.
    RegisteringFirst = "registering_first",
    /// A service leaves before those that depend on it.
    DependentsFirst = "dependents_first",
    /// A renamed service's old replicas go before the new ones serve.
    Succession = "succession",

    // ---------------------------------------------------------------------------------------- roll-outs
    /// One replica after the other is replaced by one that fails.
    Paused = "paused",
    /// A new replica is given up although it may still become ready.
    Deadline = "deadline",
    /// The next replica is begun, or the old one taken away, while the newest may still die of its youth.
    Monitor = "monitor",
    /// Replicas follow each other faster than `delay` says.
    Delay = "delay",
    /// What failed and what served before are rolled out in turn for ever.
    OneWayBack = "one_way_back",
    /// What failed is rolled out again when what served before is not kept any more.
    RolledBack = "rolled_back",
    /// A service that somebody held or rolled back is replaced because reeve's folder cannot be read.
    PinsKnown = "pins_known",

    // ---------------------------------------------------------------------------------------- registrations
    /// Registrations are removed because Docker cannot be read.
    DockerKnown = "docker_known",
    /// A container that is not healthy is registered.
    Healthy = "healthy",
    /// A container passes by what an earlier one of the same name earned.
    SameContainer = "same_container",
    /// A registration is told by a container that does not run, or that is only being attached to its network.
    SettledAddress = "settled_address",
    /// Another owner's registration is overwritten.
    RegistrationOwner = "registration_owner",
    /// Something is registered while Consul has no leader.
    Leader = "leader",
    /// A replica that drains is registered again.
    NotRetiring = "not_retiring",
    /// A changed check of an unfit container keeps the old one's good state.
    FitDefinition = "fit_definition",
    /// An operator's maintenance is lifted.
    OperatorMaintenance = "operator_maintenance",
    /// An old replica that still serves loses its registration.
    KeepRegistered = "keep_registered",
    /// The registration of a running container is removed without a drain.
    ContainerGone = "container_gone",
    /// A registration that left the spec goes before its successor serves.
    SuccessorServes = "successor_serves",
    /// A registration is removed while nginx routes to it.
    RegistrationUnrouted = "registration_unrouted",
    /// A registration is removed while it cannot be told whether nginx routes to it.
    RegistrationRoutedKnown = "registration_routed_known",
    /// A registration is removed while requests are under way.
    RegistrationDrainTime = "registration_drain_time",
    /// The health check is written in every pass.
    HealthChanged = "health_changed",

    // ---------------------------------------------------------------------------------------- routes
    /// A generation listens on a port that somebody else holds.
    ListenFree = "listen_free",
    /// An upstream loses its endpoints because Consul cannot be read.
    CatalogKnown = "catalog_known",
    /// An upstream loses its endpoints because Docker cannot be read.
    ReplicasKnown = "replicas_known",
    /// nginx routes to a replica that is seen dead or unhealthy.
    SeenUnfit = "seen_unfit",
    /// A healthy replica is unrouted because somebody deregistered it.
    Unlisted = "unlisted",
    /// A catalog that suddenly lost its entries is believed at once.
    Distrust = "distrust",
    /// `when_empty: keep` holds on to a replica that is to leave, which then never can.
    LeavesWhenEmpty = "leaves_when_empty",
    /// The upstream of a service that cannot be drained is taken away.
    Stranded = "stranded",
    /// Upstreams that left the spec are removed although it cannot be told whether the spec removes everything.
    RemovalsSeen = "removals_seen",

    // ---------------------------------------------------------------------------------------- generations
    /// A generation is switched to that the main configuration does not include.
    Included = "included",
    /// nginx is reloaded although its master is gone.
    Orphans = "orphans",
    /// The generation that nginx runs is not on disk, and one that lacks its upstreams is loaded.
    ContentSeen = "content_seen",
    /// A generation that nginx refused, or that somebody edited, is switched to.
    Usable = "usable",
    /// A refused generation is written again in every pass.
    RetryLater = "retry_later",
    /// A generation that routes to what is dead or leaves is loaded, since a better one was refused.
    CurrentOutdated = "current_outdated",
    /// The generation that nginx runs is removed from the disk.
    InUse = "in_use",
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which gates hold: all of them, but for the one that a test build switches off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gates {
    #[cfg(debug_assertions)]
    off: Option<Gate>,
}

impl Gates {
    #[cfg(debug_assertions)]
    pub fn without(gate: Gate) -> Self {
        Self { off: Some(gate) }
    }

    #[cfg(debug_assertions)]
    pub(super) fn holds(self, gate: Gate) -> bool {
        self.off != Some(gate)
    }

    /// Nothing can be off in a release build.
    #[cfg(not(debug_assertions))]
    pub(super) fn holds(self, _: Gate) -> bool {
        true
    }
}
