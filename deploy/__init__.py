"""Commands of the images and of ``docker-compose.yml`` besides the services themselves."""
