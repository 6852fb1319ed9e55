//! Who is at fault when nginx refuses a generation: told from the refusals that stand on disk, and from nothing else.
//!
//! Each generation names its *suspects*: the upstreams in which it differs from what was in force when it was made. A
//! refusal with one suspect, or whose message names one, convicts that content. Otherwise a half of the suspects is tried
//! with the others as they are in force, and so on: about `log2` of their number tries for each that is at fault. What
//! passes is loaded on the way. A refusal without suspects means that nginx does not accept even what is in force.
//!
//! A conviction is of a content (definition, endpoints, digests of TLS files), so changes of others never repeat the
//! search. The exception is a name of an endpoint in force that does not resolve any more: when that has lasted, what is in
//! force is convicted, too, or it would hold all others for as long as the name is gone. Every verdict has an end, so that a fault that lay elsewhere heals by itself; the time doubles with each refusal
//! of the same content. What is done about a verdict is `generations`'.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::planner::after;
use crate::observed::{GenerationId, Loaded, Manifest, Nginx, Rejection, RoutedUpstream, Stage};

pub(super) type Routes = BTreeMap<String, RoutedUpstream>;

/// A refused content is tried again after this time: the fault may have been outside of it (a name server, a folder).
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// It doubles with every refusal, up to this: a lasting fault costs six checks an hour.
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// When nothing at all can be loaded, everybody waits: then it is tried more often.
const LONGEST_RETRY_OF_ALL: Duration = Duration::from_secs(30);
/// A name in force that stops resolving goes on being served by what is loaded, which has resolved it before. Only when
/// others have been held for so long is it left out: a name server that hiccups must not cost an endpoint.
const NAME_PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// One refused generation.
#[derive(Debug)]
pub(super) struct Refusal<'a> {
    pub id: &'a GenerationId,
    pub rejection: &'a Rejection,
    manifest: &'a Manifest,
    /// One of them is at fault, at least. Empty: the fault is in none of those that differ from what is in force.
    culprits: BTreeSet<&'a str>,
    /// nginx's message names the culprits.
    named: bool,
    /// It is about a name that does not resolve any more, of these upstreams as they were in force.
    fallen: BTreeSet<&'a str>,
    /// …and that has lasted: they are the culprits, although in force.
    fell: bool,
    /// Until then it counts.
    pub until: Timestamp,
}

impl<'a> Refusal<'a> {
    fn content(&self, name: &str) -> Option<&'a RoutedUpstream> {
        self.manifest.upstreams.get(name)
    }

    fn of_all(&self) -> bool {
        self.culprits.is_empty()
    }

    /// The endpoint whose name nginx could not resolve.
    fn unresolved(&self) -> Option<&'a str> {
        unresolved(&self.rejection.message)
    }

    /// What nginx said, in one line for a reason.
    pub fn words(&self) -> String {
        let verb = match self.rejection.stage {
            Stage::Check => "nginx refuses it",
            Stage::Load | Stage::Start => "nginx cannot load it",
        };
        format!("{verb}: {}", readable(&self.rejection.message, &self.manifest.upstreams))
    }
}

/// `name:port` of the endpoint that a message is about because its name does not resolve.
fn unresolved(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("host not found in upstream \"")?;
    rest.split_once('"').map(|(endpoint, _)| endpoint)
}

/// nginx's message with the paths of TLS files as the spec names them: nginx reads copies of them.
pub(super) fn readable(message: &str, routes: &Routes) -> String {
    let mut text = message.to_owned();
    for (path, digest) in routes.values().flat_map(|routed| &routed.files) {
        if let Some(end) = text.find(digest.as_str()) {
            let start = text[..end].rfind(|c: char| c.is_whitespace() || c == '"' || c == '(').map_or(0, |at| at + 1);
            text.replace_range(start..end + digest.len(), path);
        }
    }
    text
}

/// What is to be tried next of a target that differs from what is in force.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// All of it: no refusal speaks against it.
    Target,
    /// Only these of its upstreams, the others as they are in force.
    Part(BTreeSet<String>),
    /// Nothing of it: does nginx still accept what is in force?
    Control { load: bool },
}

/// All refusals that say something about generations made from this template.
#[derive(Debug, Default)]
pub(super) struct Evidence<'a> {
    /// Oldest first.
    refusals: Vec<Refusal<'a>>,
    /// When the newest generation was made that nginx has accepted.
    accepted_at: Option<Timestamp>,
    /// What nginx runs; nothing of that can be at fault.
    in_force: Option<&'a Routes>,
    now: Timestamp,
}

impl<'a> Evidence<'a> {
    /// `template`: its digest. `blamed`: the upstreams of a manifest that a message of nginx is about.
    pub fn of(
        nginx: &'a Nginx,
        template: &str,
        in_force: Option<&'a Routes>,
        now: Timestamp,
        blamed: impl Fn(&Manifest, &str) -> BTreeSet<String>,
    ) -> Self {
        let mut evidence = Self { refusals: Vec::new(), accepted_at: None, in_force, now };
        for (id, generation) in &nginx.generations {
            let manifest: &'a Manifest = &generation.manifest;
            let Some(rejection) = &generation.rejected else {
                if generation.damaged.is_empty() {
                    evidence.accepted_at = evidence.accepted_at.max(Some(generation.created_at));
                }
                continue;
            };
            // What is seen loaded was only slow; one that was written anew, since somebody had deleted it, is refused by now.
            let runs = matches!(&nginx.loaded, Loaded::Generation(loaded) if loaded == id);
            if (runs && rejection.stage != Stage::Check) || manifest.template != template {
                continue;
            }
            // When nginx was started, nothing was in force.
            let suspects: BTreeSet<&str> = match rejection.stage {
                Stage::Check if runs => BTreeSet::new(),
                Stage::Start => manifest.upstreams.keys().map(String::as_str).collect(),
                Stage::Check | Stage::Load => manifest.suspects.keys().map(String::as_str).collect(),
            };
            let blamed = blamed(manifest, &rejection.message);
            let named: BTreeSet<&str> = suspects.iter().copied().filter(|name| blamed.contains(*name)).collect();
            let has = |routed: &RoutedUpstream, name: &str| routed.endpoints.iter().any(|one| one.to_string() == name);
            let lost = unresolved(&rejection.message).filter(|_| named.is_empty());
            let fallen = manifest
                .upstreams
                .iter()
                .filter(|(name, routed)| blamed.contains(*name) && lost.is_some_and(|lost| has(routed, lost)));
            let mut refusal = Refusal {
                id,
                rejection,
                manifest,
                fallen: fallen.map(|(name, _)| name.as_str()).collect(),
                fell: false,
                named: !blamed.is_empty(),
                culprits: if blamed.is_empty() { suspects } else { named },
                until: Timestamp::MIN,
            };
            let in_force = |name: &&str| in_force.is_some_and(|routes| routes.get(*name) == refusal.content(name));
            if !refusal.of_all() && refusal.culprits.iter().all(in_force) {
                continue;
            }
            let counts = refusal.culprits.iter().filter_map(|name| manifest.suspects.get(*name));
            refusal.until = after(rejection.at, retry(counts.copied().max().unwrap_or(0)));
            evidence.refusals.push(refusal);
        }
        evidence.refusals.sort_by_key(|refusal| (refusal.rejection.at, refusal.id));
        evidence.convict_fallen();
        evidence
    }

    /// Names in force that have not resolved for long enough, with nothing accepted meanwhile.
    fn convict_fallen(&mut self) {
        let accepted_at = self.accepted_at;
        let since = |refusal: &&mut Refusal<'a>| {
            !refusal.fallen.is_empty() && accepted_at.is_none_or(|at| at < refusal.rejection.at)
        };
        let mut fallen: Vec<&mut Refusal<'a>> = self.refusals.iter_mut().filter(since).collect();
        let lasts = match fallen.as_slice() {
            [first, .., last] => last.rejection.at.duration_since(first.rejection.at) >= NAME_PATIENCE,
            _ => false,
        };
        for refusal in fallen.iter_mut().filter(|_| lasts) {
            refusal.culprits.clone_from(&refusal.fallen);
            refusal.fell = true;
        }
    }

    /// `name:port` of the endpoints of an upstream that nginx could not resolve lately.
    pub fn unresolved(&self, name: &str) -> BTreeSet<&'a str> {
        self.live().filter(|refusal| refusal.culprits.contains(name)).filter_map(Refusal::unresolved).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.refusals.is_empty()
    }

    /// Those that count. When even what is in force was refused afterwards, a refusal without a name says nothing.
    fn live(&self) -> impl Iterator<Item = &Refusal<'a>> {
        let of_all = self.of_all().map(|of_all| of_all.rejection.at);
        let overruled =
            move |refusal: &Refusal<'a>| !refusal.named && of_all.is_some_and(|at| at >= refusal.rejection.at);
        self.refusals.iter().filter(move |refusal| refusal.until > self.now && !overruled(refusal))
    }

    /// The newest refusal of what was in force.
    fn of_all(&self) -> Option<&Refusal<'a>> {
        self.refusals.iter().rfind(|refusal| refusal.of_all())
    }

    /// The refusal that convicts this content of an upstream (`None`: its absence).
    pub fn conviction(&self, name: &str, content: Option<&RoutedUpstream>) -> Option<&Refusal<'a>> {
        let runs = self.in_force.is_some_and(|routes| routes.get(name) == content);
        let convicts = |refusal: &&Refusal<'a>| {
            (refusal.fell || !runs)
                && refusal.culprits.len() == 1
                && refusal.culprits.contains(name)
                && refusal.content(name) == content
        };
        self.live().filter(convicts).max_by_key(|refusal| refusal.until)
    }

    /// nginx refuses even what is in force: the newest such refusal, if nothing has passed since, and until when it counts.
    pub fn refused_all(&self) -> Option<(&Refusal<'a>, Timestamp)> {
        let of_all = self.of_all()?;
        // How long it has lasted is told by the refusals of what was to be loaded.
        let before = self.refusals.iter().filter(|refusal| !refusal.named && refusal.until > self.now);
        let counts = before.flat_map(|refusal| refusal.manifest.suspects.values());
        let wait = retry(counts.copied().max().unwrap_or(0)).min(LONGEST_RETRY_OF_ALL);
        let until = after(of_all.rejection.at, wait);
        let passed = self.accepted_at.is_some_and(|at| at > of_all.rejection.at);
        (until > self.now && !passed).then_some((of_all, until))
    }

    /// How often in a row nginx has refused this content.
    pub fn times_refused(&self, name: &str, content: Option<&RoutedUpstream>) -> u32 {
        let of = |refusal: &Refusal<'a>| {
            let counts = refusal.culprits.contains(name) && refusal.content(name) == content;
            counts.then(|| refusal.manifest.suspects.get(name).copied().unwrap_or(0).saturating_add(1))
        };
        self.refusals.iter().filter_map(of).max().unwrap_or(0)
    }

    /// What to try of `target`. `safe`: what is in force, as far as it is still true. With the refusal that speaks against
    /// trying all of it.
    pub fn next(&self, safe: &Routes, target: &Routes) -> (Next, Option<&Refusal<'a>>) {
        let applies = |refusal: &&Refusal<'a>| {
            !refusal.of_all() && refusal.culprits.iter().all(|name| refusal.content(name) == target.get(*name))
        };
        let against: Vec<(BTreeSet<&str>, &Refusal<'a>)> = self
            .live()
            .filter(applies)
            .map(|refusal| {
                let open = refusal.culprits.iter().copied().filter(|name| target.get(*name) != safe.get(*name));
                (open.collect::<BTreeSet<_>>(), refusal)
            })
            // All of it is in force by now: it was something else.
            .filter(|(open, _)| !open.is_empty())
            .collect();
        let Some((open, refusal)) = against.iter().min_by_key(|(open, refusal)| (open.len(), refusal.id)) else {
            return (Next::Target, None);
        };
        let began = against.iter().filter(|(_, refusal)| !refusal.named).map(|(_, refusal)| refusal.rejection.at).min();
        let unproven = began.is_some_and(|began| self.accepted_at.is_none_or(|at| at < began));
        if open.len() > 1 && !refusal.named && unproven {
            let load = refusal.rejection.stage != Stage::Check;
            return (Next::Control { load }, Some(refusal));
        }
        let half = open.len().div_ceil(2);
        (Next::Part(open.iter().take(half).map(|name| (*name).to_owned()).collect()), Some(refusal))
    }

    /// The refused generations that still say something about the wanted contents: the newest for each upstream, also when
    /// its time is over (it tells how often), and the newest about all of them.
    pub fn needed(&self, wanted: &Routes, settled: &Routes) -> BTreeSet<&'a GenerationId> {
        let mut newest: BTreeMap<&str, &'a GenerationId> = BTreeMap::new();
        for refusal in &self.refusals {
            for name in &refusal.culprits {
                let content = refusal.content(name);
                let asked = content == wanted.get(*name) || content == settled.get(*name);
                let proven = self.in_force.is_some_and(|routes| routes.get(*name) == content);
                if asked && !proven {
                    newest.insert(name, refusal.id);
                }
            }
        }
        let mut needed: BTreeSet<&GenerationId> = newest.into_values().collect();
        needed.extend(self.of_all().map(|refusal| refusal.id));
        needed
    }
}

/// How long a refusal counts that is the next one after so many of the same.
pub(super) fn retry(refused_before: u32) -> Duration {
    FIRST_RETRY.saturating_mul(2_u32.saturating_pow(refused_before)).min(LONGEST_RETRY)
}
