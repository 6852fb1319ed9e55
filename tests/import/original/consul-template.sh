consul-template -consul-addr 10.8.99.45:8500 -template \
  "/data/template/nginx.ctmpl:/etc/nginx/conf.d/app.conf:nginx -s reload" \
  --log-level=info
