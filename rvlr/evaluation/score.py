def score_cross_modal(model, tokenizer, split, candidates, workers):
    import torch

    from rvlr.evaluation.encode import encode
    from rvlr.evaluation.rerank import rerank
    e=encode(model,tokenizer,split,64,workers)
    ci=torch.tensor(split.caption_image)
    out={}
    sims=e.image_embeds@e.text_embeds.T
    for nm,(a,b) in {"":rerank(model,e,candidates),"emb_":(sims,sims.T)}.items():
        top=a.topk(10,1).indices
        hit=ci[top]==torch.arange(len(a))[:,None]
        t2=b.topk(10,1).indices==ci[:,None]
        for k in (1,5,10):
            out[f"{nm}i2t_r@{k}"]=100*hit[:,:k].any(1).float().mean().item()
            out[f"{nm}t2i_r@{k}"]=100*t2[:,:k].any(1).float().mean().item()
        out[nm+"r_mean"]=sum(out[f"{nm}{d}_r@{k}"] for d in("i2t","t2i") for k in (1,5,10))/6
    return out
