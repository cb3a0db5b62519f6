"""Protection against SSRF (server-side request forgery): which URLs and addresses the services may connect to."""
