//! Adoption: which containers that somebody else made become replicas of a service, and in which slots.
//!
//! Owns the choice alone. What a container is like was read beforehand, and compared with the service by the backend, which
//! knows the engine's words. It writes nothing: the outcome is pins, which the command writes.

use std::collections::{BTreeMap, BTreeSet};

use super::Change;
use crate::observed::{Adopted, ChosenPort, Container};
use crate::spec::Service;
use crate::spec::container::Published;

/// A container without reeve's mark, beside a service of the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: String,
    pub name: String,
    pub running: bool,
    /// Compose's labels: project, service, and the number among its replicas.
    pub composed: Option<(String, String, u32)>,
    pub image_id: String,
    /// One for each published port of the service, in its order; shorter when something is not published.
    pub chosen_ports: Vec<ChosenPort>,
    /// What it would be, had reeve made it, beside what it is. Empty: it is what the spec says.
    pub differences: Vec<Change>,
}

/// What becomes of the candidates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adoption {
    /// With the candidate's name, by slot.
    pub adopted: BTreeMap<u32, (String, Adopted)>,
    /// By name: why not.
    pub refused: BTreeMap<String, Vec<String>>,
}

/// `named`: the containers that the user named, by name or the beginning of an id; none: those that Compose made for the
/// service in the project, and without any the ones that are just what the spec says. `present`: the service's replicas.
pub fn adoption(
    project: &str,
    service: &Service,
    candidates: &[Candidate],
    named: &[String],
    present: &[&Container],
    accept_differences: bool,
) -> Adoption {
    let mut adoption = Adoption::default();
    let mut taken: BTreeSet<u32> = present.iter().map(|container| container.slot).collect();
    let of_compose = |one: &&Candidate| {
        let of_service = |(of, name, _): &(String, String, u32)| of == project && *name == service.name;
        one.composed.as_ref().is_some_and(of_service)
    };
    let mut chosen: Vec<&Candidate> = if named.is_empty() {
        let composed: Vec<&Candidate> = candidates.iter().filter(of_compose).collect();
        let alike = || candidates.iter().filter(|one| one.running && one.differences.is_empty()).collect();
        if composed.is_empty() { alike() } else { composed }
    } else {
        let mut chosen = Vec::new();
        for name in named {
            match candidates.iter().find(|one| one.name == *name || (name.len() >= 12 && one.id.starts_with(name))) {
                Some(candidate) => chosen.push(candidate),
                None => {
                    let reason = "there is no such container, or reeve made it";
                    adoption.refused.entry(name.clone()).or_default().push(reason.to_owned());
                }
            }
        }
        chosen
    };
    chosen.sort_by_key(|one| (one.composed.as_ref().map(|(_, _, number)| *number), one.name.clone()));
    chosen.dedup_by_key(|one| one.id.clone());
    for candidate in chosen {
        let mut against = Vec::new();
        if !candidate.running {
            against.push("it does not run: start it, or let reeve make a new one".to_owned());
        }
        if !accept_differences {
            against.extend(candidate.differences.iter().map(Change::to_string));
        }
        let slot = slot_of(service, candidate, &taken);
        if slot.is_none() {
            against.push(format!(
                "no slot is free: the spec has {} of {} (`deploy: {{ replicas: … }}` says how many)",
                service.replicas, service.name
            ));
        }
        match slot.filter(|_| against.is_empty()) {
            None => adoption.refused.entry(candidate.name.clone()).or_default().extend(against),
            Some(slot) => {
                taken.insert(slot);
                adoption.adopted.insert(slot, (candidate.name.clone(), adopted(service, slot, candidate)));
            }
        }
    }
    adoption
}

/// Slot k has the k-th port of a range: what is published there belongs there.
fn slot_of(service: &Service, candidate: &Candidate, taken: &BTreeSet<u32>) -> Option<u32> {
    let by_port = service.config.ports.iter().zip(&candidate.chosen_ports).find_map(|(port, chosen)| {
        let Published::Range { first, last } = port.published else { return None };
        let index = chosen.host.checked_sub(first).filter(|_| first != last && chosen.host <= last)?;
        Some(u32::from(index) + 1)
    });
    let by_number = candidate.composed.as_ref().map(|(_, _, number)| *number);
    let free = |slot: &u32| (1..=service.replicas).contains(slot) && !taken.contains(slot);
    by_port.filter(free).or(by_number.filter(free)).or_else(|| (1..=service.replicas).find(free))
}

fn adopted(service: &Service, slot: u32, candidate: &Candidate) -> Adopted {
    Adopted {
        service: service.name.clone(),
        slot,
        container: candidate.id.clone(),
        hash: service.hash.clone(),
        config: service.config.canonical(),
        image_id: candidate.image_id.clone(),
        chosen_ports: candidate.chosen_ports.clone(),
        registers: !service.register.is_empty(),
        depends_on: service.depends_on.keys().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{LoadOptions, Protocol, load_text};

    fn service() -> Service {
        let text = "name: shop\nservices:\n  web: { image: localhost/web:1, ports: [\"81-84:80\"], deploy: { replicas: 3 } }\n";
        let mut spec = load_text(&[("spec.yaml", text)], &LoadOptions::default()).expect("a valid spec").spec;
        spec.services.remove("web").expect("it is there")
    }

    fn candidate(name: &str, host: u16) -> Candidate {
        Candidate {
            id: format!("{name}-0123456789abcdef"),
            name: name.to_owned(),
            running: true,
            composed: None,
            image_id: "sha256:1".to_owned(),
            chosen_ports: vec![ChosenPort { target: 80, protocol: Protocol::Tcp, host_ip: None, host }],
            differences: Vec::new(),
        }
    }

    fn slots(adoption: &Adoption) -> Vec<(u32, &str)> {
        adoption.adopted.iter().map(|(slot, (name, _))| (*slot, name.as_str())).collect()
    }

    fn adopt(candidates: &[Candidate], named: &[&str]) -> Adoption {
        let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
        adoption("shop", &service(), candidates, &named, &[], false)
    }

    #[test]
    fn a_container_gets_the_slot_whose_port_it_has() {
        let candidates = [candidate("b", 81), candidate("a", 83)];
        assert_eq!(slots(&adopt(&candidates, &[])), [(1, "b"), (3, "a")]);
    }

    #[test]
    fn what_compose_made_for_the_service_comes_before_what_looks_alike() {
        let mut composed = candidate("shop_web_2", 82);
        composed.composed = Some(("shop".to_owned(), "web".to_owned(), 2));
        let mut other = candidate("blog_web_1", 81);
        other.composed = Some(("blog".to_owned(), "web".to_owned(), 1));
        assert_eq!(slots(&adopt(&[composed, other, candidate("plain", 83)], &[])), [(2, "shop_web_2")]);
    }

    #[test]
    fn what_differs_is_refused_with_the_difference_unless_that_is_accepted() {
        let mut candidate = candidate("web", 81);
        let change = Change { field: "image".to_owned(), old: Some("web:0".to_owned()), new: Some("web:1".to_owned()) };
        candidate.differences.push(change);
        let candidates = [candidate];
        assert_eq!(adopt(&candidates, &[]), Adoption::default(), "nobody said that it is meant");
        let refused = adopt(&candidates, &["web"]);
        assert!(refused.adopted.is_empty());
        assert!(refused.refused["web"][0].contains("image"), "{:?}", refused.refused);
        let accepted = adoption("shop", &service(), &candidates, &["web".to_owned()], &[], true);
        assert_eq!(slots(&accepted), [(1, "web")]);
    }

    #[test]
    fn one_more_than_the_spec_has_slots_for_is_refused_as_is_what_is_not_there() {
        let candidates: Vec<Candidate> = (81..=84).map(|port| candidate(&format!("web{port}"), port)).collect();
        let all = adopt(&candidates, &["web81", "web82", "web83", "web84", "nobody"]);
        assert_eq!(slots(&all), [(1, "web81"), (2, "web82"), (3, "web83")]);
        assert!(all.refused["web84"][0].contains("no slot is free: the spec has 3 of web"));
        assert!(all.refused["nobody"][0].contains("no such container"));
    }
}
