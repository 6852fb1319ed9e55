log_levl = "info"
