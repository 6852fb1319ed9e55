//! `reeve adopt`: take over running containers that somebody else made, as replicas of a service.
//!
//! It writes pins and nothing else: Docker cannot give a container our labels. Which containers may be taken is
//! `plan::adoption`'s.

use clap::Args;
use jiff::Timestamp;

use super::{Context, Exit, adopt_registrator, pinning, plan, runtime};
use crate::engine::{Engine, Orders};
use crate::observed::{Interest, Pin};
use crate::plan::Removals;
use crate::plan::adoption::{Adoption, adoption};
use crate::plan::preview::Preview;
use crate::spec::{Service, Spec};
use crate::world::Observe as _;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve adopt web --dry-run          Show which containers would be taken over, what speaks
                                     against others, and the plan that remains.
  reeve adopt web                    Take over what `docker compose` made for the service web
                                     of a project of this name, or what is just as the spec says.
  reeve adopt web web1 web2          Take over these.

The containers go on running as they are. They are registered, routed, drained and replaced
like any other replica; what replaces one is an ordinary replica with labels. The networks and
volumes that they use must be declared `external: true` when reeve did not make them.

  reeve adopt --registrator          Take over what a former registrator left in the local
                                     Consul agent and has a container here, remove the rest.

End the registrator first: it would register its entries again. Only entries in the form
<hostname>:<container>:<port>, with this host's name and nobody's mark, are touched; what
discovery registers under the same id is taken over in one write.")]
pub struct AdoptArguments {
    /// The service of the spec.
    #[arg(value_name = "SERVICE", required_unless_present = "registrator")]
    pub service: Option<String>,

    /// Containers by name or id, in place of those that are found.
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,

    /// Take over also what is not as the spec says; it stays so until it is replaced.
    #[arg(long)]
    pub accept_differences: bool,

    /// In place of a service: what a former registrator left in the local Consul agent.
    #[arg(long, conflicts_with_all = ["service", "containers", "accept_differences"])]
    pub registrator: bool,

    /// Show what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// # Errors
/// When the spec is invalid or has no such service, Docker or reeve's folder cannot be read, or nothing can be adopted.
pub fn run(context: &mut Context, arguments: &AdoptArguments) -> anyhow::Result<Exit> {
    let Some(name) = &arguments.service else { return adopt_registrator::run(context, arguments.dry_run) };
    let (spec, engine) = pinning::open(context)?;
    let service = pinning::service(&spec, name)?;
    let runtime = runtime()?;
    let adoption = runtime.block_on(choose(&engine, &spec, service, arguments))?;
    let style = context.output.style();
    for (slot, (name, adopted)) in &adoption.adopted {
        let id: String = adopted.container.chars().take(12).collect();
        let ports: Vec<String> = adopted.chosen_ports.iter().map(|port| format!("host port {}", port.host)).collect();
        let ports = if ports.is_empty() { String::new() } else { format!(", {}", ports.join(", ")) };
        let text = format!("  =   replica {name} becomes slot {slot} of {}  (container {id}{ports})", service.name);
        context.output.line(style.add(text))?;
    }
    for (name, reasons) in &adoption.refused {
        context.output.line(style.warning(format!("  !   {name} is left alone")))?;
        for reason in reasons {
            context.output.line(format_args!("      {reason}"))?;
        }
    }
    let count = adoption.adopted.len();
    anyhow::ensure!(
        count > 0,
        "no container can be adopted as {}: name one (`reeve adopt {0} CONTAINER`), or see above what speaks against it \
         (`--accept-differences` takes it all the same)",
        service.name
    );
    let containers = if count == 1 { "1 container".to_owned() } else { format!("{count} containers") };
    if arguments.dry_run {
        context.output.line(format_args!("\nThat would adopt {containers}. What is left to do then:\n"))?;
        runtime.block_on(show_rest(context, &engine, &spec, &adoption))?;
        return Ok(Exit::Success);
    }
    let name = service.name.clone();
    for (_, adopted) in adoption.adopted.into_values() {
        let pin = Pin::Adopted(Box::new(adopted));
        engine.world().directory().add_pin(pin).map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let did = format!("{containers} adopted as {name}; what replaces one is an ordinary replica.");
    let said = runtime.block_on(pinning::obeyed(context, &spec.project, &did))?;
    context.output.line(said)?;
    Ok(if adoption.refused.is_empty() || arguments.containers.is_empty() { Exit::Success } else { Exit::Failure })
}

async fn choose(
    engine: &Engine,
    spec: &Spec,
    service: &Service,
    arguments: &AdoptArguments,
) -> anyhow::Result<Adoption> {
    // Without the folder it cannot be told what is adopted already.
    pinning::directory(engine)?;
    let observed = engine.observe(spec).await;
    let docker = observed
        .docker
        .known()
        .ok_or_else(|| anyhow::anyhow!("Docker cannot be read: {}", observed.docker.reason().unwrap_or_default()))?;
    let present: Vec<_> = docker.containers.values().filter(|container| container.service == service.name).collect();
    let candidates = engine.world().docker().candidates(service).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let candidates: Vec<_> =
        candidates.into_iter().filter(|candidate| !docker.containers.contains_key(&candidate.id)).collect();
    let named = &arguments.containers;
    Ok(adoption(&spec.project, service, &candidates, named, &present, arguments.accept_differences))
}

/// The plan as it would be with the containers adopted.
async fn show_rest(context: &mut Context, engine: &Engine, spec: &Spec, adopted: &Adoption) -> anyhow::Result<()> {
    let mut interest = Interest::of(spec, &engine.owner);
    let containers = adopted.adopted.values().map(|(_, adopted)| (adopted.container.clone(), adopted.clone()));
    interest.adopted.extend(containers);
    let observed = engine.reader().observe(&interest).await;
    let orders = Orders { removals: Removals::Held, teardown: None, dry: true };
    let preview = Preview::of(spec, &observed, Timestamp::now(), &engine.context(orders));
    plan::print(&mut context.output, &preview, &observed)?;
    Ok(())
}
