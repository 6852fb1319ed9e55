template {
  contents = "a"
  destination = "/etc/a"
  exec {
    command = ["app", "reload"]
    timeout = "5s"
    env { pristine = true }
  }
}
template {
  contents = "b"
  destination = "/srv/b"
  exec { command = "app check && app reload" }
}
template {
  contents = "c"
  destination = "/data/c/c"
  exec { enabled = false command = "no" }
}
