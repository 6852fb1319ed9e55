//! Pulling an image.
//!
//! A pull has no limit as a whole short of an hour, because images are large, but it must keep saying something.

use std::time::Duration;

use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;

use super::connection::{Link, limited};
use super::credentials;
use super::error::Fault;
use super::names::{self, Reference};
use super::wire;
use crate::world::ActionError;

/// Without a word for so long, a pull is given up.
const SILENCE: Duration = Duration::from_secs(120);
const WHOLE: Duration = Duration::from_secs(60 * 60);
const INSPECT_LIMIT: Duration = Duration::from_secs(10);

/// What a registry says when trying again is of no use.
const HOPELESS: &[&str] = &[
    "not found",
    "manifest unknown",
    "access denied",
    "unauthorized",
    "no basic auth",
    "denied:",
    "no matching manifest",
];

pub(super) async fn pull(
    link: &Link,
    config: Option<&std::path::Path>,
    image: &str,
    platform: Option<&str>,
) -> Result<(), ActionError> {
    let what = format!("pull image {image}");
    if !names::is_reference(image) {
        return Err(ActionError::Permanent(format!("{what}: it is no image reference")));
    }
    let reference = Reference::parse(image);
    let credentials = match credentials::folder(config) {
        None => None,
        Some(folder) => credentials::find(&folder, reference.registry)
            .await
            .map_err(|why| ActionError::Permanent(format!("{what}: registry credentials: {why}")))?,
    };
    let options = CreateImageOptions {
        from_image: Some(reference.name.to_owned()),
        tag: Some(reference.tag.to_owned()),
        platform: platform.unwrap_or_default().to_owned(),
        ..CreateImageOptions::default()
    };
    let connection = link.connection().await.map_err(|fault| fault.action(&what))?;
    let mut progress = std::pin::pin!(connection.client.create_image(Some(options), None, credentials));
    let follow = async {
        loop {
            match limited(SILENCE, async { Ok(progress.next().await) }).await? {
                None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Fault::from(error)),
            }
        }
    };
    let Err(fault) = limited(WHOLE, follow).await else { return Ok(()) };
    // bollard can fail to read the last line of a pull that succeeded.
    if let Fault::Broken(_) = fault
        && is_here(link, image).await
    {
        return Ok(());
    }
    Err(failure(&what, reference.registry, fault))
}

async fn is_here(link: &Link, image: &str) -> bool {
    let found = link.find::<wire::Image>(INSPECT_LIMIT, &format!("/images/{image}/json")).await;
    found.is_ok_and(|image| image.is_some())
}

fn failure(what: &str, registry: &str, fault: Fault) -> ActionError {
    if registry == "localhost" {
        return ActionError::Permanent(format!(
            "{what}: the engine does not have it, and `localhost` is by convention no registry: build it, or bring it \
             in with `docker load` or `docker import` ({fault})"
        ));
    }
    let message = match &fault {
        Fault::Refused { message, .. } | Fault::Stream(message) => message.to_lowercase(),
        Fault::Settings(_) | Fault::Unreachable(_) | Fault::Late(_) | Fault::Broken(_) => return fault.action(what),
    };
    if HOPELESS.iter().any(|words| message.contains(words)) {
        return ActionError::Permanent(format!(
            "{what}: {fault}. Is the name right, and does the Docker configuration of this user hold credentials for \
             {registry}?"
        ));
    }
    ActionError::Transient(format!("{what}: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(message: &str) -> Fault {
        Fault::Stream(message.to_owned())
    }

    #[test]
    fn what_a_registry_will_say_again_is_not_tried_again_soon() {
        let hopeless = failure("pull image a/b:1", "docker.io", stream("pull access denied for a/b"));
        assert!(matches!(&hopeless, ActionError::Permanent(why) if why.contains("credentials for docker.io")));
        let refused = Fault::Refused { status: 404, message: "manifest for a:1 not found".to_owned() };
        assert!(matches!(failure("pull image a:1", "docker.io", refused), ActionError::Permanent(_)));
        let later = failure("pull image a/b:1", "docker.io", stream("dial tcp: i/o timeout"));
        assert!(matches!(later, ActionError::Transient(_)));
    }

    #[test]
    fn a_localhost_image_that_is_missing_says_what_to_do() {
        let error = failure("pull image localhost/web:1", "localhost", stream("dial tcp [::1]:443: refused"));
        assert!(matches!(&error, ActionError::Permanent(why) if why.contains("docker import")));
    }
}
