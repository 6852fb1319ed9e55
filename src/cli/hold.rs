//! `reeve hold` and `reeve release`: leave a service as it is, and end that, or a rollback.

use clap::Args;

use super::{Context, Exit, pinning, project, runtime};
use crate::observed::Pin;

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  reeve hold web        Leave its containers and registrations as they are, whatever
                        the world or a person does to them.

nginx goes on following its health, and what Consul lists. The hold ends by itself when
the spec says something else of the service.")]
pub struct HoldArguments {
    /// The service of the spec.
    #[arg(value_name = "SERVICE")]
    pub service: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve release web     End a hold, or a rollback: the spec counts again.
                        After a roll-out that failed and was rolled back: try it again.")]
pub struct ReleaseArguments {
    /// The service.
    #[arg(value_name = "SERVICE")]
    pub service: String,
}

/// # Errors
/// When the spec is invalid or has no such service, or the pin cannot be written.
pub fn hold(context: &mut Context, arguments: &HoldArguments) -> anyhow::Result<Exit> {
    let (spec, engine) = pinning::open(context)?;
    let service = pinning::service(&spec, &arguments.service)?;
    let pin = Pin::Hold { service: service.name.clone(), hash: service.hash.clone(), digest: service.digest() };
    if pinning::directory(&engine)?.pins.contains(&pin) {
        context.output.line(format_args!("{} is held already; `reeve release {0}` ends it.", service.name))?;
        return Ok(Exit::Success);
    }
    engine.world().directory().add_pin(pin).map_err(|error| anyhow::anyhow!("{error}"))?;
    let did = format!(
        "{} is held: nothing of it is corrected, until `reeve release {0}` or until the spec says something else of it.",
        service.name
    );
    let said = runtime()?.block_on(pinning::obeyed(context, &spec.project, &did))?;
    context.output.line(said)?;
    Ok(Exit::Success)
}

/// # Errors
/// When the pins cannot be read or written, or there is no such service.
pub fn release(context: &mut Context, arguments: &ReleaseArguments) -> anyhow::Result<Exit> {
    let name = arguments.service.as_str();
    // The name of the project is enough: a hold must end also while the spec is being mended.
    let (project, services) = match &context.global.project {
        Some(project) => (project.clone(), Vec::new()),
        None => {
            let spec = project::open(context)?.spec().clone();
            (spec.project.clone(), spec.services.keys().cloned().collect())
        }
    };
    let engine = project::engine(context, &project)?;
    let directory = pinning::directory(&engine)?;
    let pins: Vec<Pin> = directory.pins_of(name).filter(|pin| !matches!(pin, Pin::Adopted(_))).cloned().collect();
    if pins.is_empty() {
        let pinned = directory.pins.iter().filter_map(Pin::service);
        let known = services.iter().map(String::as_str).chain(pinned);
        if !services.is_empty() && !services.iter().any(|service| service == name) {
            return Err(pinning::unknown(name, known));
        }
        context.output.line(format_args!("{name} is neither held nor rolled back: there is nothing to release."))?;
        return Ok(Exit::Success);
    }
    let mut ended = Vec::new();
    for pin in pins {
        ended.push(match &pin {
            Pin::Hold { .. } => "is held no more",
            Pin::RolledBack { .. } => "is rolled back no more",
            Pin::Failed { .. } => "gets the roll-out that failed once more",
            // An adoption ends with its container.
            Pin::AllowRemovals { .. } | Pin::Adopted(_) => continue,
        });
        engine.world().directory().remove_pin(&pin).map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let did = format!("{name} {}: the spec counts.", ended.join(", and "));
    let said = runtime()?.block_on(pinning::obeyed(context, &project, &did))?;
    context.output.line(said)?;
    Ok(Exit::Success)
}
