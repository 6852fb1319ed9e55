//! `reeve rollback`: go back to the last configuration of a service that served.

use clap::Args;

use super::{Context, Exit, pinning, runtime};
use crate::observed::{Directory, Pin, same_image};
use crate::spec::Service;

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  reeve rollback web    Roll to the configuration that served before the one that the spec
                        has now, in the same order and with the same care as any roll-out.

It stays so, also across restarts, until the spec says something else of the service or
`reeve release web`. Replicas are always the spec's.")]
pub struct RollbackArguments {
    /// The service of the spec.
    #[arg(value_name = "SERVICE")]
    pub service: String,
}

/// # Errors
/// When the spec is invalid or has no such service, nothing that served before is kept, or the pin cannot be written.
pub fn run(context: &mut Context, arguments: &RollbackArguments) -> anyhow::Result<Exit> {
    let (spec, engine) = pinning::open(context)?;
    let service = pinning::service(&spec, &arguments.service)?;
    let runtime = runtime()?;
    // Which image the spec's reference means now: a rollback from a tag that was moved is one, too.
    let observed = runtime.block_on(engine.observe(&spec));
    let docker = observed
        .docker
        .known()
        .ok_or_else(|| anyhow::anyhow!("Docker cannot be read: {}", observed.docker.reason().unwrap_or_default()))?;
    let image_id = docker.images.get(&service.config.image).map(|image| image.id.clone()).unwrap_or_default();
    let directory = pinning::directory(&engine)?;
    let rolls_back_to = match target(service, &image_id, &directory)? {
        Target::Already(why) => {
            context.output.line(why)?;
            return Ok(Exit::Success);
        }
        Target::Kept(title) => title,
    };
    let name = &service.name;
    let pin = Pin::RolledBack { service: name.clone(), from: service.hash.clone(), digest: service.digest(), image_id };
    engine.world().directory().add_pin(pin).map_err(|error| anyhow::anyhow!("{error}"))?;
    let did = format!(
        "{name} is rolled back from {} ({}) to {rolls_back_to}, until `reeve release {name}` or until the spec says something else of it.",
        service.config.image, service.hash
    );
    let said = runtime.block_on(pinning::obeyed(context, &spec.project, &did))?;
    context.output.line(said)?;
    context.output.line("`reeve status --watch` shows the roll-out.")?;
    Ok(Exit::Success)
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// There is nothing to do, and why.
    Already(String),
    /// The configuration that it goes back to, for a person.
    Kept(String),
}

/// What a rollback would go back to.
///
/// # Errors
/// When it cannot be done, with the reason.
fn target(service: &Service, image_id: &str, directory: &Directory) -> anyhow::Result<Target> {
    let name = &service.name;
    for pin in directory.pins_of(name) {
        match pin {
            Pin::Hold { .. } if pin.is_for(service) => {
                anyhow::bail!("{name} is held, so that nothing of it would be changed; `reeve release {name}` first")
            }
            Pin::RolledBack { image_id: of, .. } if pin.is_for(service) && same_image(of, image_id) => {
                return Ok(Target::Already(format!("{name} is rolled back already; `reeve release {name}` ends it.")));
            }
            Pin::Failed { image_id: of, reason, .. } if pin.is_for(service) && same_image(of, image_id) => {
                return Ok(Target::Already(format!(
                    "{name} was rolled back already, since the roll-out failed: {reason}; `reeve release {name}` tries it again."
                )));
            }
            Pin::Hold { .. }
            | Pin::RolledBack { .. }
            | Pin::Failed { .. }
            | Pin::AllowRemovals { .. }
            | Pin::Adopted(_) => {}
        }
    }
    if let Some(reason) = directory.unreadable.get(name) {
        anyhow::bail!("what served before cannot be read: {reason}");
    }
    let kept = directory.kept.get(name).and_then(|kept| kept.other_than(&service.hash, image_id));
    let Some(kept) = kept else {
        anyhow::bail!(
            "no other configuration of {name} is kept than the one that the spec has: since reeve manages it, none has served \
             here with every replica; change the spec to what it should be"
        );
    };
    Ok(Target::Kept(kept.title()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::observed::{Configuration, Kept};
    use crate::spec::ContainerConfig;

    fn version(image: &str) -> Service {
        let mut service = crate::status::tests::spec().services.remove("web").expect("there");
        let config = ContainerConfig { image: image.to_owned(), ..ContainerConfig::default() };
        service.hash = config.hash();
        service.config = Arc::new(config);
        service
    }

    fn configuration(image: &str, image_id: &str) -> Configuration {
        Configuration {
            service: Arc::new(version(image)),
            image_id: image_id.to_owned(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
        }
    }

    fn kept(present: Configuration, before: Option<Configuration>) -> Directory {
        let kept = BTreeMap::from([("web".to_owned(), Arc::new(Kept { present, before }))]);
        Directory { kept, ..Directory::default() }
    }

    fn refused(directory: &Directory) -> String {
        target(&version("web:2"), "sha256:2", directory).expect_err("refused").to_string()
    }

    #[test]
    fn it_goes_to_the_last_configuration_that_served_and_is_another_one() {
        let (one, two) = (configuration("web:1", "sha256:1"), configuration("web:2", "sha256:2"));
        let title = one.title();
        for directory in [kept(two.clone(), Some(one.clone())), kept(one, None)] {
            assert_eq!(target(&version("web:2"), "sha256:2", &directory).expect("kept"), Target::Kept(title.clone()));
        }
        // The same reference, and the tag was moved.
        let moved = kept(configuration("web:2", "sha256:9"), None);
        assert!(matches!(target(&version("web:2"), "sha256:2", &moved), Ok(Target::Kept(_))));
        assert!(refused(&kept(two, None)).contains("no other configuration of web is kept"));
        assert!(refused(&Directory::default()).contains("no other configuration of web is kept"));
    }

    #[test]
    fn what_cannot_be_read_is_not_the_same_as_nothing() {
        let mut directory = Directory::default();
        directory.unreadable.insert("web".to_owned(), "it is damaged".to_owned());
        assert_eq!(refused(&directory), "what served before cannot be read: it is damaged");
    }

    #[test]
    fn a_held_service_is_refused_and_a_second_rollback_says_that_it_is_one() {
        let mut directory = kept(configuration("web:1", "sha256:1"), None);
        let (service, hash) = ("web".to_owned(), version("web:2").hash);
        let digest = version("web:2").digest();
        directory.pins.insert(Pin::Hold { service: service.clone(), hash: hash.clone(), digest });
        assert!(refused(&directory).contains("`reeve release web` first"));
        directory.pins.clear();
        directory.pins.insert(Pin::RolledBack {
            service: service.clone(),
            from: hash.clone(),
            digest: String::new(),
            image_id: String::new(),
        });
        assert!(matches!(target(&version("web:2"), "sha256:2", &directory), Ok(Target::Already(_))));
        directory.pins.clear();
        // Pins of another configuration are dead.
        let other = version("web:3").hash;
        let (digest, image_id) = (version("web:3").digest(), String::new());
        directory.pins.insert(Pin::Hold { service: service.clone(), hash: other.clone(), digest: digest.clone() });
        directory.pins.insert(Pin::RolledBack { service, from: other, digest, image_id });
        assert!(matches!(target(&version("web:2"), "sha256:2", &directory), Ok(Target::Kept(_))));
    }
}
