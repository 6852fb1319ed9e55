//! Two projects at once on one machine, each with everything of its own.

use std::fs;

use crate::support::snapshot::Snapshot;
use crate::support::{Shop, Site, eventually, http};

#[test]
fn two_projects_do_not_see_each_other() {
    let one = Site::new("one");
    let other = one.beside("other");
    let (shop, other_shop) = (Shop::new(&one, 2), Shop::new(&other, 2));
    one.write_spec(&shop);
    other.write_spec(&other_shop);
    let (first, second) = (one.begin(&["apply"]), other.begin(&["apply"]));
    first.wait().success();
    second.wait().success();
    one.serves(one.listen(), "web", 2).expect("one serves");
    other.serves(other.listen(), "web", 2).expect("the other serves");

    let mut daemon = other.run(&other_shop);
    let before = Snapshot::of(&other);
    one.apply(&Shop { replicas: 1, ..shop });
    one.reeve(&["destroy", "--volumes"]).success();
    daemon.makes_passes(1);
    before.assert_same(&Snapshot::of(&other));
    other.serves(other.listen(), "web", 2).expect("the other goes on");
    daemon.lives();
}

#[test]
fn two_projects_share_one_agent_and_one_node_name() {
    let mut one = Site::new("same");
    let other = one.beside("agent");
    // The same node and the same agent; project, lock, folder, nginx and ports of its own.
    one.node.clone_from(&other.node);
    one.write_settings();
    let settings = fs::read_to_string(one.settings()).expect("readable");
    let agent = |site: &Site| format!("127.0.0.1:{}", site.ports.consul()[0]);
    fs::write(one.settings(), settings.replace(&agent(&one), &agent(&other))).expect("written");

    let (shop, other_shop) = (Shop::new(&one, 1), Shop::new(&other, 1));
    let daemon = other.run(&other_shop);
    one.write_spec(&Shop {
        registered: "shop".to_owned(),
        upstreams: vec![("site".to_owned(), Shop::upstream("shop", one.listen()))],
        ..shop
    });
    one.reeve(&["apply", "--timeout", "60s"]).success();
    one.serves(one.listen(), "web", 1).expect("one serves");
    assert_eq!(other.consul().registrations(&one.owner()).len(), 1);
    eventually("the other is content", || daemon.converged());
    one.reeve(&["destroy", "--volumes"]).success();
    assert_eq!(other.consul().registrations(&one.owner()).len(), 0);
    assert!(http::get(one.listen(), "/").is_err());
    other.serves(other.listen(), "web", 1).expect("the other goes on");
    assert_eq!(other.registrations().len(), 1);
    drop(daemon);
}
