"""The console: pages on which a person sees what Penstock does, and puts it right.

It is a door like the API and holds no rules: each page asks the API's own routes, in the same
process and as the one who signed in, and shows the answers. So what a key may not do by the API it
may not do here, and whatever the API refuses is refused here in the same words.

The pages are made on the server and work without JavaScript; a little of it keeps them fresh.
"""
