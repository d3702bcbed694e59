"""How well an avatar paints: held-out frames through the shipped engine against the studio's truth.

metrics    pure figures on arrays: PSNR, SSIM, Frechet distance, jackknife
parts      what is judged: held-out frames by part, and where the mesh's landmarks lie in them
paint      an avatar through the live engine, with and without its late passes, in any mode
views, regressor    crops of face, body and hands, and the small network that finds landmarks in them
judge      painted against true frames: a table of figures by frame
tables     rows beside the paper's, the direction of each effect, Markdown; `sheet`, `video`: to be looked at
run        all of it in one go
"""
