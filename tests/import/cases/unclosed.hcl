template {
  source = "a.ctmpl"
