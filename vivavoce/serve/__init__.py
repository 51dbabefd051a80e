"""`vivavoce serve`: a page for people and an address for programs, both before one queue of jobs.

`uploads` lets in what is really a picture, a film or a sound; `jobs` makes films one after another; `marks` says in each film that
it was made; `guard` and `api` speak HTTP, `live` a WebSocket, `page` shows Gradio, `server` puts them together. Only `server`,
`api` and `page` need the extra (`pip install 'vivavoce[serve]'`), and import it when they are used.
"""
